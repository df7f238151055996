//! Go's `text/template`, as far as `-o go-template` can reach it: every action, pipelines, variables, the built-in functions and
//! kubectl's own `exists` and `base64decode`, over values decoded from JSON. Left out, since no value here has any: methods, `call`,
//! complex numbers.

mod exec;
mod functions;
mod lex;
mod parse;

use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    source: String,
    tree: parse::Tree,
}

impl Template {
    /// Parses a template; the error is Go's text.
    pub fn new(source: &str) -> Result<Template, String> {
        let tree = parse::parse(source).map_err(|(line, e)| format!("template: output:{line}: {e}"))?;
        Ok(Template { source: source.to_owned(), tree })
    }

    /// Runs it. With `allow_missing_keys`, a missing key prints `<no value>`; without, it is an error.
    pub fn render(&self, data: &Value, allow_missing_keys: bool) -> Result<String, String> {
        exec::render(&self.tree, data, allow_missing_keys).map_err(|e| {
            let (line, column) = position(&self.source, e.offset);
            format!("template: output:{line}:{column}: executing \"output\" at <{}>: {}", e.at, e.message)
        })
    }
}

/// Line from one, column from zero, as Go counts.
fn position(source: &str, offset: usize) -> (usize, usize) {
    let before = &source[..offset.min(source.len())];
    (before.matches('\n').count() + 1, before.len() - before.rfind('\n').map_or(0, |i| i + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str) -> Result<String, String> {
        let data = json!({"name": "x", "n": 3, "f": 1.5, "t": true, "none": null, "list": ["a", "b"], "map": {"k": "v", "j": "w"}, "data": {"p": "aGk="}, "html": "<a&b>"});
        Template::new(source)?.render(&data, true)
    }

    #[test]
    fn renders_as_go_does() {
        let cases = [
            ("{{.name}}-{{.n}} {{.f}} {{.t}}", "x-3 1.5 true"),
            ("{{.missing}}", "<no value>"),
            ("{{.map}}{{.list}}", "map[j:w k:v][a b]"),
            ("{{range .list}}{{.}},{{end}}", "a,b,"),
            ("{{range $i, $e := .list}}{{$i}}={{$e}};{{end}}", "0=a;1=b;"),
            ("{{range $k, $v := .map}}{{$k}}={{$v}};{{end}}", "j=w;k=v;"),
            ("{{range .none}}x{{else}}empty{{end}}", "empty"),
            ("{{if .t}}yes{{else}}no{{end}}{{if .missing}}1{{else if eq .n 3}}2{{else}}3{{end}}", "yes2"),
            ("{{with .map}}{{.k}}{{$.name}}{{end}}", "vx"),
            ("{{$x := .n}}{{$x}}{{$x = 4}}{{$x}}", "34"),
            ("{{ .name | printf \"%s!%5d|%-4s|%q\" .name 7 \"ab\" }}", "x!    7|ab  |\"x\""),
            ("a {{- .name -}} b", "axb"),
            ("{{/* nothing */}}{{\"q\\n\"}}{{`raw`}}{{'a'}}", "q\nraw97"),
            ("{{len .list}}{{index .list 1}}{{index .map \"k\"}}", "2bv"),
            ("{{and .t .n}}{{or .missing \"d\"}}{{not .t}}", "3dfalse"),
            ("{{eq .n 1 2 3}}{{ne .name \"y\"}}{{lt 1 2}}{{ge 2 3}}", "truetruetruefalse"),
            ("{{.data.p | base64decode}}", "hi"),
            ("{{exists . \"map\" \"k\"}}{{exists . \"map\" \"z\"}}", "truefalse"),
            ("{{html .html}}{{js .html}}{{urlquery \"a b&c\"}}", "&lt;a&amp;b&gt;\\u003Ca\\u0026b\\u003Ea+b%26c"),
            ("{{define \"T\"}}[{{.}}]{{end}}{{template \"T\" .name}}", "[x]"),
            ("{{print 1 2 \"a\" \"b\" 3}}{{println .name}}", "1 2ab3x\n"),
            ("{{range .list}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
            ("{{slice .name 0 1}}{{(index .list 0)}}", "xa"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn refuses_as_go_does() {
        let cases = [
            ("{{.name.foo}}", "template: output:1:7: executing \"output\" at <.name.foo>: can't evaluate field foo in type interface {}"),
            ("{{if}}", "template: output:1: missing value for if"),
            ("{{.name", "template: output:1: unclosed action"),
            ("{{foo}}", "template: output:1: function \"foo\" not defined"),
            ("{{if .t}}x", "template: output:1: unexpected EOF"),
            ("{{$x}}", "template: output:1: undefined variable \"$x\""),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).unwrap_err(), expected, "{source}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_panics(source in "(\\{\\{|\\}\\}|range|if|end|else|with|[.$|:=() \"a-c0-9-]){0,16}") {
            let _ = render(&source);
        }
    }
}
