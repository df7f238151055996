//! Running a template over a value.

use super::functions::{self, show, truth};
use super::parse::{Node, Operand, OperandKind, Pipeline, Tree};
use serde_json::Value;

/// What went wrong, where, and at which operand.
#[derive(Debug)]
pub struct Failure {
    /// Offset in the source.
    pub offset: usize,
    /// The operand's text.
    pub at: String,
    /// Go's message.
    pub message: String,
}

/// How deep templates may call each other, as in Go's interpreter but for a smaller stack.
const MAX_CALLS: usize = 200;

enum Flow {
    On,
    Break,
    Continue,
}

struct State<'a> {
    tree: &'a Tree,
    out: String,
    variables: Vec<(String, Option<Value>)>,
    allow_missing_keys: bool,
    calls: usize,
}

/// What the template prints for `data`.
pub fn render(tree: &Tree, data: &Value, allow_missing_keys: bool) -> Result<String, Failure> {
    let mut state = State { tree, out: String::new(), variables: Vec::new(), allow_missing_keys, calls: 0 };
    state.variables.push(("$".to_owned(), Some(data.clone())));
    state.list(&tree.root, &Some(data.clone()))?;
    Ok(state.out)
}

impl State<'_> {
    fn list(&mut self, nodes: &[Node], dot: &Option<Value>) -> Result<Flow, Failure> {
        for node in nodes {
            let scope = self.variables.len();
            match node {
                Node::Text(t) => self.out.push_str(t),
                Node::Action(p) => {
                    let value = self.pipeline(p, dot)?;
                    if p.variables.is_empty() {
                        self.out.push_str(&show(&value));
                    }
                }
                Node::If(p, then, otherwise) => {
                    let value = self.pipeline(p, dot)?;
                    let flow = self.list(if truth(value.as_ref()) { then } else { otherwise }, dot)?;
                    self.variables.truncate(scope);
                    if !matches!(flow, Flow::On) {
                        return Ok(flow);
                    }
                }
                Node::With(p, then, otherwise) => {
                    let value = self.pipeline(p, dot)?;
                    let flow = if truth(value.as_ref()) { self.list(then, &value)? } else { self.list(otherwise, dot)? };
                    self.variables.truncate(scope);
                    if !matches!(flow, Flow::On) {
                        return Ok(flow);
                    }
                }
                Node::Range(p, body, otherwise) => {
                    self.range(p, body, otherwise, dot)?;
                    self.variables.truncate(scope);
                }
                Node::Template(name, argument, offset) => {
                    let value = match argument {
                        Some(p) => self.pipeline(p, dot)?,
                        None => None,
                    };
                    let fail = |message: String| Failure { offset: *offset, at: format!("{{{{template {name:?}}}}}"), message };
                    let body = self.tree.defined.get(name).ok_or_else(|| fail(format!("template {name:?} not defined")))?;
                    self.calls += 1;
                    if self.calls > MAX_CALLS {
                        return Err(fail("exceeded maximum template depth".into()));
                    }
                    let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), value.clone())]);
                    self.list(body, &value)?;
                    self.variables = outer;
                    self.calls -= 1;
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
        }
        Ok(Flow::On)
    }

    fn range(&mut self, p: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Option<Value>) -> Result<(), Failure> {
        let over = self.commands(p, dot)?;
        let items: Vec<(Value, Value)> = match &over {
            Some(Value::Array(a)) => a.iter().enumerate().map(|(i, v)| (Value::from(i), v.clone())).collect(),
            Some(Value::Object(o)) => {
                let mut keys: Vec<&String> = o.keys().collect();
                keys.sort();
                keys.into_iter().map(|k| (Value::String(k.clone()), o[k].clone())).collect()
            }
            Some(Value::Number(n)) if !n.is_f64() => {
                // Bounded like a list from the server would be; Go has no bound here.
                (0..n.as_i64().unwrap_or(0).clamp(0, 1_000_000)).map(|i| (Value::from(i), Value::from(i))).collect()
            }
            None | Some(Value::Null) => Vec::new(),
            Some(other) => {
                let operand = &p.commands[0][0];
                let shown = crate::encoding::govalue::sprint(other);
                return Err(Failure {
                    offset: operand.offset,
                    at: operand.text.clone(),
                    message: format!("range can't iterate over {shown}"),
                });
            }
        };
        if items.is_empty() {
            self.list(otherwise, dot)?;
            return Ok(());
        }
        let scope = self.variables.len();
        for (key, value) in items {
            match p.variables.as_slice() {
                [v] => self.bind(p.declares, v, Some(value.clone())),
                [k, v] => {
                    self.bind(p.declares, k, Some(key));
                    self.bind(p.declares, v, Some(value.clone()));
                }
                _ => {}
            }
            let flow = self.list(body, &Some(value))?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(())
    }

    fn bind(&mut self, declares: bool, name: &str, value: Option<Value>) {
        match self.variables.iter_mut().rev().find(|(n, _)| !declares && n == name) {
            Some((_, slot)) => *slot = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, p: &Pipeline, dot: &Option<Value>) -> Result<Option<Value>, Failure> {
        let value = self.commands(p, dot)?;
        for name in &p.variables {
            self.bind(p.declares, name, value.clone());
        }
        Ok(value)
    }

    fn commands(&mut self, p: &Pipeline, dot: &Option<Value>) -> Result<Option<Value>, Failure> {
        let mut last: Option<Option<Value>> = None;
        for command in &p.commands {
            let (head, arguments) = command.split_first().expect("the parser makes no empty command");
            let value = match &head.kind {
                OperandKind::Function(name) => {
                    let mut values = Vec::new();
                    for a in arguments {
                        let value = self.operand(a, dot)?;
                        let decided = (name == "and" && !truth(value.as_ref())) || (name == "or" && truth(value.as_ref()));
                        values.push(value);
                        if decided {
                            break;
                        }
                    }
                    values.extend(last.take());
                    let value = functions::call(name, &values).map_err(|message| {
                        let message = if message.starts_with("error calling") || message.starts_with("wrong") {
                            message
                        } else {
                            format!("error calling {name}: {message}")
                        };
                        Failure { offset: head.offset, at: command.iter().map(|o| o.text.as_str()).collect::<Vec<_>>().join(" "), message }
                    })?;
                    self.fields(head, value)?
                }
                _ if !arguments.is_empty() || last.is_some() => {
                    let message = format!("can't give argument to non-function {}", head.text);
                    return Err(Failure { offset: head.offset, at: head.text.clone(), message });
                }
                _ => self.operand(head, dot)?,
            };
            last = Some(value);
        }
        Ok(last.flatten())
    }

    fn operand(&mut self, operand: &Operand, dot: &Option<Value>) -> Result<Option<Value>, Failure> {
        let base = match &operand.kind {
            OperandKind::Dot => dot.clone(),
            OperandKind::Variable(name) => self.variables.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.clone()),
            OperandKind::Constant(v) => Some(v.clone()),
            OperandKind::Nil => None,
            OperandKind::Function(name) => {
                functions::call(name, &[]).map_err(|message| Failure { offset: operand.offset, at: operand.text.clone(), message })?
            }
            OperandKind::Pipeline(p) => self.pipeline(p, dot)?,
        };
        self.fields(operand, base)
    }

    fn fields(&self, operand: &Operand, mut value: Option<Value>) -> Result<Option<Value>, Failure> {
        for (i, name) in operand.fields.iter().enumerate() {
            let fail = |message: String| Failure { offset: operand.offset, at: operand.text.clone(), message };
            value = match value {
                Some(Value::Object(mut o)) => match o.remove(name) {
                    Some(v) => Some(v),
                    None if self.allow_missing_keys => None,
                    None => return Err(fail(format!("map has no entry for key {name:?}"))),
                },
                // Go calls a missing key's value nil, and a field of nil is an error except for the first.
                None | Some(Value::Null) if i == 0 => None,
                None | Some(Value::Null) => return Err(fail(format!("nil pointer evaluating interface {{}}.{name}"))),
                Some(_) => return Err(fail(format!("can't evaluate field {name} in type interface {{}}"))),
            };
        }
        Ok(value)
    }
}
