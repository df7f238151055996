//! The CEL environment as a whole: expressions with their types, values, costs and errors.

use super::types::{ListKind, ListType};
use super::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn environment() -> Environment {
    let spec = Type::object(
        "object",
        [
            ("replicas".to_owned(), Type::Int),
            ("name".to_owned(), Type::String(40)),
            ("for".to_owned(), Type::STRING),
            ("a-b".to_owned(), Type::STRING),
            ("items".to_owned(), Type::list(Type::STRING)),
            ("labels".to_owned(), Type::map(Type::STRING, Type::STRING)),
            ("set".to_owned(), Type::List(Arc::new(ListType { item: Type::Int, kind: ListKind::Set, max: 10 }))),
            ("when".to_owned(), Type::TIMESTAMP),
            ("port".to_owned(), Type::DYN),
        ],
    );
    Environment::new(&[("self", Type::object("selfType", [("spec".to_owned(), spec)])), ("any", Type::DYN)])
}

fn object() -> Value {
    json!({"spec": {"replicas": 3, "name": "abc", "for": "x", "a-b": "y", "items": ["a", "b", "b"], "labels": {"k": "v"},
        "set": [2, 1], "when": "2020-01-02T03:04:05Z", "port": "http"}})
}

fn run(expression: &str) -> Result<Value, String> {
    let environment = environment();
    let program = compile(expression, &environment).map_err(|e| e.lines().next().unwrap_or_default().to_owned())?;
    let (object, any) = (object(), json!({"x": {"y": [1, 2]}, "n": 1.5, "nothing": null}));
    let variables = [("self", Val::typed(&object, &environment.variables[0].1)), ("any", Val::json(&any))];
    program.evaluate(&variables, PER_CALL_LIMIT).0.map(|v| v.to_json()).map_err(|e| e.to_string())
}

#[test]
fn expressions_come_to_what_they_should() {
    for (expression, value) in [
        ("self.spec.replicas <= 3 && self.spec.name.startsWith('a')", json!(true)),
        ("self.spec.items.all(i, i.size() == 1)", json!(true)),
        ("self.spec.items.exists_one(i, i == 'b')", json!(false)),
        ("self.spec.items.map(i, i + '!')", json!(["a!", "b!", "b!"])),
        ("self.spec.items.filter(i, i != 'b')", json!(["a"])),
        ("self.spec.labels.exists(k, self.spec.labels[k] == 'v')", json!(true)),
        ("self.spec.labels.all(k, v, k != v)", json!(true)),
        ("self.spec.labels.transformList(k, v, k + v)", json!(["kv"])),
        ("[1, 2].transformMap(i, v, v > 1, v * 2)", json!({"1": 4})),
        ("has(self.spec.name) && !has(any.z)", json!(true)),
        ("has(any.nothing)", json!(false)),
        ("self.spec.__for__ + self.spec.a__dash__b + self.spec.`a-b`", json!("xyy")),
        ("self.spec.set == [1, 2]", json!(true)),
        ("self.spec.set + [2, 3]", json!([2, 1, 3])),
        ("self.spec.when.getFullYear()", json!(2020)),
        ("type(self.spec.port) == string ? self.spec.port : 'n'", json!("http")),
        ("any.?x.?y[?1].orValue(7)", json!(2)),
        ("any.?q.orValue(7)", json!(7)),
        ("optional.of(1).optMap(v, v + 1).value()", json!(2)),
        ("optional.none().optMap(v, 1).hasValue()", json!(false)),
        ("cel.bind(x, self.spec.replicas, x * x)", json!(9)),
        ("any.n > 1", json!(true)),
        ("1 in self.spec.set && 'k' in self.spec.labels", json!(true)),
        ("quantity('1Gi').isGreaterThan(quantity('1000Mi'))", json!(true)),
        ("quantity('1500m').add(quantity('500m')).asInteger()", json!(2)),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('11.0.0.0/16')", json!(true)),
        ("ip('::1').isLoopback() && ip('10.0.0.1').family() == 4 && ip.isCanonical('::1')", json!(true)),
        ("cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24')", json!(true)),
        ("url('https://a.b:80/p?x=1').getPort() + url('https://a.b:80/p?x=1').getQuery()['x'][0]", json!("801")),
        ("isURL('x')", json!(false)),
        ("'abc 123'.find('[0-9]+') + string('a1b2'.findAll('[0-9]').size())", json!("1232")),
        ("[1, 3, 2].isSorted() || [1, 2].sum() == 3", json!(true)),
        ("['a', 'b'].join('-') + 'a,b'.split(',')[1] + 'hello'.substring(1, 3)", json!("a-bbel")),
        ("'%s is %d, %.2f %x'.format(['a', 5, 1.5, 255])", json!("a is 5, 1.50 ff")),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1', true)", json!(true)),
        ("format.dns1123Label().validate('a_b').hasValue()", json!(true)),
        ("sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1])", json!(true)),
        ("duration('1h').getMinutes() + int('5')", json!(65)),
        ("timestamp('2020-01-01T00:00:00Z') + duration('1h') == timestamp('2020-01-01T01:00:00Z')", json!(true)),
        ("false && 1 / 0 == 1", json!(false)),
        ("1 / 0 == 1 || true", json!(true)),
        ("[0, 1].exists(i, 1 / i == 1)", json!(true)),
        ("{'a': 1}.a + {'a': 1}['a']", json!(2)),
        ("self.spec.name.matches('^[a-c]+$')", json!(true)),
        ("'aé'.size() + 'x'.charAt(0).size()", json!(3)),
        ("jsonpatch.escapeKey('a/b~c')", json!("a~1b~0c")),
        ("dyn(1) == dyn(1.0)", json!(true)),
    ] {
        assert_eq!(run(expression), Ok(value), "{expression}");
    }
}

#[test]
fn what_is_wrong_is_told_in_upstreams_words() {
    for (expression, message) in [
        ("self.spec.bogus == 1", "ERROR: <input>:1:10: undefined field 'bogus'"),
        ("oldself == 1", "ERROR: <input>:1:1: undeclared reference to 'oldself' (in container '')"),
        ("self.spec.replicas == 'x'", "ERROR: <input>:1:20: found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.spec.name.contains(1)", "ERROR: <input>:1:24: found no matching overload for 'contains' applied to 'string.(int)'"),
        ("self.spec.name.nope()", "ERROR: <input>:1:20: undeclared reference to 'nope' (in container '')"),
        (
            "self.spec.replicas.all(x, true)",
            "ERROR: <input>:1:10: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        (
            "self.spec.name ==",
            "ERROR: <input>:1:18: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
        ),
        ("any.z", "no such key: z"),
        ("self.spec.items[5]", "index out of bounds: 5"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "return error for overflow"),
        ("any.x < 1", "no such overload"),
        ("'a'.matches('(')", "program instantiation failed: error parsing regexp: missing closing ): `(`"),
    ] {
        assert_eq!(run(expression), Err(message.to_owned()), "{expression}");
    }
}

#[test]
fn costs_are_bounded() {
    let environment = environment();
    let program = compile("self.spec.items.all(a, self.spec.items.all(b, a != b || a == b))", &environment).unwrap();
    assert!(program.cost().max > 1_000_000_000);
    let cheap = compile("self.spec.name.startsWith('a')", &environment).unwrap();
    assert_eq!((cheap.cost().min, cheap.cost().max), (4, 4));
    let many: Vec<Value> = (0..2000).map(|n| n.to_string().into()).collect();
    let object = json!({"spec": {"items": many}});
    let variables = [("self", Val::typed(&object, &environment.variables[0].1))];
    let (outcome, cost) = program.evaluate(&variables, PER_CALL_LIMIT);
    assert_eq!(outcome.err(), Some(EvalError::CostLimit));
    assert!(cost > PER_CALL_LIMIT);
    let named = json!({"spec": {"name": "abc"}});
    let (outcome, cost) = cheap.evaluate(&[("self", Val::json(&named))], PER_CALL_LIMIT);
    assert_eq!((outcome.map(|v| v.to_json()), cost), (Ok(json!(true)), 4));
}

#[test]
fn objects_are_made_where_they_may_be() {
    let mut environment = environment();
    environment.structs = vec![
        ("Object".to_owned(), Type::DYN),
        ("JSONPatch".to_owned(), Type::object("JSONPatch", [("op".to_owned(), Type::STRING), ("value".to_owned(), Type::DYN)])),
    ];
    let made = |text: &str| compile(text, &environment).map(|p| p.evaluate(&[("any", Val::Null)], PER_CALL_LIMIT).0.unwrap().to_json());
    assert_eq!(made("Object{spec: Object.spec{replicas: 1}}"), Ok(json!({"spec": {"replicas": 1}})));
    assert_eq!(made("[JSONPatch{op: 'add', value: [1]}]"), Ok(json!([{"op": "add", "value": [1]}])));
    assert!(made("JSONPatch{nope: 1}").unwrap_err().contains("undefined field 'nope'"));
    assert!(made("Other{}").unwrap_err().contains("undeclared reference to 'Other'"));
}

#[test]
fn names_are_escaped_and_back() {
    for (name, escaped) in [
        ("a", Some("a")),
        ("for", Some("__for__")),
        ("a-b", Some("a__dash__b")),
        ("a.b/c", Some("a__dot__b__slash__c")),
        ("1a", None),
        ("a b", None),
        ("a__b", Some("a__underscores__b")),
    ] {
        assert_eq!(escape(name).as_deref(), escaped);
        if let Some(escaped) = escaped.filter(|e| *e != name) {
            assert_eq!(unescape(escaped).as_deref(), Some(name));
        }
    }
}
