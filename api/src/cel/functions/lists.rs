//! Lists.

use super::super::value::{EvalError, List, Text, Val};
use super::{Outcome, add, failed};
use std::cmp::Ordering;

/// A function of a list, with its arguments after the list.
pub(super) fn call<'a>(name: &str, list: &List<'a>, arguments: &[Val<'a>]) -> Option<Outcome<'a>> {
    let place = |at: Option<usize>| Ok(Val::Int(at.and_then(|a| i64::try_from(a).ok()).unwrap_or(-1)));
    Some(match (name, arguments) {
        ("isSorted", []) => {
            let items: Vec<Val<'a>> = list.iter().collect();
            Ok(Val::Bool(items.windows(2).all(|w| w[0].compare(&w[1]).is_some_and(Ordering::is_le))))
        }
        ("sum", []) => sum(list),
        ("min", []) => best(list, Ordering::Less, "min"),
        ("max", []) => best(list, Ordering::Greater, "max"),
        ("indexOf", [item]) => place(list.iter().position(|i| i.equals(item))),
        ("lastIndexOf", [item]) => {
            let items: Vec<Val<'a>> = list.iter().collect();
            place(items.iter().rposition(|i| i.equals(item)))
        }
        ("join", []) => join(list, ""),
        ("join", [Val::String(separator)]) => join(list, separator),
        ("distinct", []) => {
            let mut items: Vec<Val<'a>> = Vec::new();
            for item in list.iter() {
                if !items.iter().any(|i| i.equals(&item)) {
                    items.push(item);
                }
            }
            Ok(Val::list(items))
        }
        ("reverse", []) => {
            let mut items: Vec<Val<'a>> = list.iter().collect();
            items.reverse();
            Ok(Val::list(items))
        }
        ("sort", []) => {
            let mut items: Vec<Val<'a>> = list.iter().collect();
            if items.windows(2).any(|w| w[0].compare(&w[1]).is_none()) {
                return Some(Err(EvalError::no_overload()));
            }
            items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
            Ok(Val::list(items))
        }
        ("slice", [Val::Int(start), Val::Int(end)]) => match (usize::try_from(*start), usize::try_from(*end)) {
            (Ok(from), Ok(to)) if from <= to && to <= list.len() => Ok(Val::list(list.iter().skip(from).take(to - from).collect())),
            _ => failed(format!("cannot slice({start}, {end}), list is length {}", list.len())),
        },
        ("flatten", []) => {
            let mut items = Vec::new();
            for item in list.iter() {
                match item {
                    Val::List(inner) => items.extend(inner.iter()),
                    other => items.push(other),
                }
            }
            Ok(Val::list(items))
        }
        ("first", []) => Ok(Val::Optional(list.get(0).map(std::sync::Arc::new))),
        ("last", []) => Ok(Val::Optional(list.len().checked_sub(1).and_then(|at| list.get(at)).map(std::sync::Arc::new))),
        _ => return None,
    })
}

fn sum<'a>(list: &List<'a>) -> Outcome<'a> {
    let mut items = list.iter();
    let Some(first) = items.next() else { return Ok(Val::Int(0)) };
    items.try_fold(first, |sum, item| add(&sum, &item))
}

fn best<'a>(list: &List<'a>, wanted: Ordering, name: &str) -> Outcome<'a> {
    let mut items = list.iter();
    let Some(first) = items.next() else { return failed(format!("{name} called on empty list")) };
    items.try_fold(first, |best, item| match item.compare(&best) {
        Some(order) => Ok(if order == wanted { item } else { best }),
        None => Err(EvalError::no_overload()),
    })
}

fn join<'a>(list: &List<'a>, separator: &str) -> Outcome<'a> {
    let mut parts: Vec<Text<'a>> = Vec::with_capacity(list.len());
    for item in list.iter() {
        match item {
            Val::String(text) => parts.push(text),
            _ => return Err(EvalError::no_overload()),
        }
    }
    let parts: Vec<&str> = parts.iter().map(|p| &**p).collect();
    Ok(Val::text(parts.join(separator)))
}
