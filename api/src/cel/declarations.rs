//! The functions that expressions may call: the language's own and those of Kubernetes' libraries, one line for each form
//! (upstream: `cel-go/common/stdlib`, `cel-go/ext`, `apiserver/pkg/cel/library`). `A` and `B` stand for any type.
//!
//! A form with a dot before the parenthesis is a method: the type before the dot is its target.

use super::types::Type;
use std::collections::HashMap;
use std::sync::LazyLock;

/// One form of a function.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// Whether its first parameter stands before the dot.
    pub method: bool,
    pub parameters: Vec<Type>,
    pub result: Type,
}

const TABLE: &str = "
!_(bool) bool
-_(int) int
-_(double) double
_&&_(bool, bool) bool
_||_(bool, bool) bool
_?_:_(bool, A, A) A
@not_strictly_false(bool) bool
@map_insert(map(A, B), A, B) map(A, B)
@map_insert(map(A, B), map(A, B)) map(A, B)
_==_(A, A) bool
_!=_(A, A) bool
@in(A, list(A)) bool
@in(A, map(A, B)) bool
_[_](list(A), int) A
_[_](map(A, B), A) B
_[_](optional(list(A)), int) optional(A)
_[_](optional(map(A, B)), A) optional(B)
_[?_](list(A), int) optional(A)
_[?_](map(A, B), A) optional(B)
_[?_](optional(list(A)), int) optional(A)
_[?_](optional(map(A, B)), A) optional(B)
_+_(int, int) int
_+_(uint, uint) uint
_+_(double, double) double
_+_(string, string) string
_+_(bytes, bytes) bytes
_+_(list(A), list(A)) list(A)
_+_(timestamp, duration) timestamp
_+_(duration, timestamp) timestamp
_+_(duration, duration) duration
_-_(int, int) int
_-_(uint, uint) uint
_-_(double, double) double
_-_(timestamp, timestamp) duration
_-_(timestamp, duration) timestamp
_-_(duration, duration) duration
_*_(int, int) int
_*_(uint, uint) uint
_*_(double, double) double
_/_(int, int) int
_/_(uint, uint) uint
_/_(double, double) double
_%_(int, int) int
_%_(uint, uint) uint
size(string) int
size(bytes) int
size(list(A)) int
size(map(A, B)) int
string.size() int
bytes.size() int
list(A).size() int
map(A, B).size() int
type(A) type
dyn(A) dyn
int(int) int
int(uint) int
int(double) int
int(string) int
int(timestamp) int
int(duration) int
uint(uint) uint
uint(int) uint
uint(double) uint
uint(string) uint
double(double) double
double(int) double
double(uint) double
double(string) double
string(string) string
string(bool) string
string(int) string
string(uint) string
string(double) string
string(bytes) string
string(timestamp) string
string(duration) string
string(ip) string
string(cidr) string
bool(bool) bool
bool(string) bool
bytes(bytes) bytes
bytes(string) bytes
timestamp(timestamp) timestamp
timestamp(string) timestamp
timestamp(int) timestamp
duration(duration) duration
duration(string) duration
duration(int) duration
matches(string, string) bool
string.matches(string) bool
string.startsWith(string) bool
string.endsWith(string) bool
string.contains(string) bool
string.charAt(int) string
string.indexOf(string) int
string.indexOf(string, int) int
string.lastIndexOf(string) int
string.lastIndexOf(string, int) int
string.lowerAscii() string
string.upperAscii() string
string.replace(string, string) string
string.replace(string, string, int) string
string.split(string) list(string)
string.split(string, int) list(string)
string.substring(int) string
string.substring(int, int) string
string.trim() string
string.format(list(dyn)) string
string.reverse() string
strings.quote(string) string
list(string).join() string
list(string).join(string) string
string.find(string) string
string.findAll(string) list(string)
string.findAll(string, int) list(string)
timestamp.getFullYear() int
timestamp.getFullYear(string) int
timestamp.getMonth() int
timestamp.getMonth(string) int
timestamp.getDayOfYear() int
timestamp.getDayOfYear(string) int
timestamp.getDayOfMonth() int
timestamp.getDayOfMonth(string) int
timestamp.getDate() int
timestamp.getDate(string) int
timestamp.getDayOfWeek() int
timestamp.getDayOfWeek(string) int
timestamp.getHours() int
timestamp.getHours(string) int
timestamp.getMinutes() int
timestamp.getMinutes(string) int
timestamp.getSeconds() int
timestamp.getSeconds(string) int
timestamp.getMilliseconds() int
timestamp.getMilliseconds(string) int
duration.getHours() int
duration.getMinutes() int
duration.getSeconds() int
duration.getMilliseconds() int
list(A).isSorted() bool
list(int).sum() int
list(uint).sum() uint
list(double).sum() double
list(duration).sum() duration
list(A).min() A
list(A).max() A
list(A).indexOf(A) int
list(A).lastIndexOf(A) int
list(A).distinct() list(A)
list(A).reverse() list(A)
list(A).slice(int, int) list(A)
list(A).sort() list(A)
list(dyn).flatten() list(dyn)
list(A).first() optional(A)
list(A).last() optional(A)
lists.range(int) list(int)
sets.contains(list(A), list(A)) bool
sets.equivalent(list(A), list(A)) bool
sets.intersects(list(A), list(A)) bool
optional.of(A) optional(A)
optional.ofNonZeroValue(A) optional(A)
optional.none() optional(A)
optional(A).hasValue() bool
optional(A).value() A
optional(A).or(optional(A)) optional(A)
optional(A).orValue(A) A
url(string) url
isURL(string) bool
url.getScheme() string
url.getHost() string
url.getHostname() string
url.getPort() string
url.getEscapedPath() string
url.getQuery() map(string, list(string))
quantity(string) quantity
isQuantity(string) bool
quantity.isInteger() bool
quantity.asInteger() int
quantity.asApproximateFloat() double
quantity.sign() int
quantity.isGreaterThan(quantity) bool
quantity.isLessThan(quantity) bool
quantity.compareTo(quantity) int
quantity.add(quantity) quantity
quantity.add(int) quantity
quantity.sub(quantity) quantity
quantity.sub(int) quantity
ip(string) ip
isIP(string) bool
ip.isCanonical(string) bool
ip.family() int
ip.isUnspecified() bool
ip.isLoopback() bool
ip.isLinkLocalMulticast() bool
ip.isLinkLocalUnicast() bool
ip.isGlobalUnicast() bool
cidr(string) cidr
isCIDR(string) bool
cidr.containsIP(ip) bool
cidr.containsIP(string) bool
cidr.containsCIDR(cidr) bool
cidr.containsCIDR(string) bool
cidr.ip() ip
cidr.masked() cidr
cidr.prefixLength() int
format.named(string) optional(format)
format.dns1123Label() format
format.dns1123Subdomain() format
format.dns1035Label() format
format.qualifiedName() format
format.dns1123LabelPrefix() format
format.dns1123SubdomainPrefix() format
format.dns1035LabelPrefix() format
format.labelValue() format
format.uri() format
format.uuid() format
format.byte() format
format.date() format
format.datetime() format
format.validate(string) optional(list(string))
semver(string) semver
semver(string, bool) semver
isSemver(string) bool
isSemver(string, bool) bool
semver.major() int
semver.minor() int
semver.patch() int
semver.isGreaterThan(semver) bool
semver.isLessThan(semver) bool
semver.compareTo(semver) int
authorizer.path(string) pathcheck
authorizer.group(string) groupcheck
authorizer.serviceAccount(string, string) authorizer
groupcheck.resource(string) resourcecheck
resourcecheck.subresource(string) resourcecheck
resourcecheck.namespace(string) resourcecheck
resourcecheck.name(string) resourcecheck
resourcecheck.fieldSelector(string) resourcecheck
resourcecheck.labelSelector(string) resourcecheck
resourcecheck.check(string) decision
pathcheck.check(string) decision
decision.errored() bool
decision.error() string
decision.allowed() bool
decision.reason() string
jsonpatch.escapeKey(string) string
";

/// What the table's short names stand for.
const LIBRARY_TYPES: [(&str, &str); 11] = [
    ("quantity", "kubernetes.Quantity"),
    ("url", "kubernetes.URL"),
    ("ip", "net.IP"),
    ("cidr", "net.CIDR"),
    ("format", "kubernetes.NamedFormat"),
    ("semver", "kubernetes.Semver"),
    ("authorizer", "kubernetes.authorization.Authorizer"),
    ("pathcheck", "kubernetes.authorization.PathCheck"),
    ("groupcheck", "kubernetes.authorization.GroupCheck"),
    ("resourcecheck", "kubernetes.authorization.ResourceCheck"),
    ("decision", "kubernetes.authorization.Decision"),
];

/// The type of an authorizer, to declare a variable with.
pub const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
/// The type of a check of an authorizer for one resource.
pub const RESOURCE_CHECK: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");

/// Names that end where a method begins, though they have a dot.
const NAMESPACES: [&str; 6] = ["strings", "lists", "sets", "optional", "format", "jsonpatch"];
/// Types of which some functions are no methods all the same.
const STATIC: [&str; 1] = ["ip.isCanonical("];
/// Types of which a namespace has the name, so that its methods have to be told apart.
const METHODS: [&str; 1] = ["format.validate("];

/// The forms of all functions, and the comparisons of all ordered types, numbers with each other too.
static FORMS: LazyLock<HashMap<String, Vec<Form>>> = LazyLock::new(|| {
    let mut forms: HashMap<String, Vec<Form>> = HashMap::new();
    for line in TABLE.lines().filter(|l| !l.is_empty()) {
        let (name, form) = form(line);
        forms.entry(name).or_default().push(form);
    }
    let ordered = ["bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration"];
    let numbers = ["int", "uint", "double"];
    for operator in ["_<_", "_<=_", "_>_", "_>=_"] {
        let list = forms.entry(operator.to_owned()).or_default();
        let alike = ordered.iter().map(|t| (t, t));
        let mixed = numbers.iter().flat_map(|a| numbers.iter().filter(move |b| a != *b).map(move |b| (a, b)));
        list.extend(alike.chain(mixed).map(|(a, b)| Form { method: false, parameters: vec![ty(a), ty(b)], result: Type::Bool }));
    }
    forms
});

/// The forms of a function.
pub(super) fn forms(function: &str) -> &'static [Form] {
    FORMS.get(function).map_or(&[], Vec::as_slice)
}

/// Whether there is a function of that name that is no method.
pub(super) fn is_function(name: &str) -> bool {
    forms(name).iter().any(|f| !f.method)
}

/// One line of the table. The lines are constant, and a test reads all of them.
fn form(line: &str) -> (String, Form) {
    let (head, result) = line.rsplit_once(") ").map_or((line, "dyn"), |(h, r)| if r.contains('(') { split_result(line) } else { (h, r) });
    // The parameters begin at the parenthesis that matches the last one.
    let open = matching(head);
    let (name, parameters) = (&head[..open], &head[open + 1..]);
    let mut types: Vec<Type> = split(parameters).into_iter().map(ty).collect();
    let dot = if name.starts_with('_') { None } else { name.rfind('.') };
    let namespaced = name.split('.').next().is_some_and(|n| NAMESPACES.contains(&n)) && !METHODS.iter().any(|m| line.starts_with(m));
    let method = dot.filter(|_| !namespaced && !STATIC.iter().any(|s| line.starts_with(s)));
    let (name, method) = match method {
        Some(dot) => {
            types.insert(0, ty(&name[..dot]));
            (&name[dot + 1..], true)
        }
        None => (name, false),
    };
    (name.to_owned(), Form { method, parameters: types, result: ty(result) })
}

/// Head and result of a line whose result has parentheses of its own.
fn split_result(line: &str) -> (&str, &str) {
    let mut depth = 0;
    for (at, c) in line.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            ' ' if depth == 0 => return (line[..at].strip_suffix(')').unwrap_or(&line[..at]), &line[at + 1..]),
            _ => {}
        }
    }
    (line, "dyn")
}

/// Where the parenthesis opens that a closing one at the end of `head` would match.
fn matching(head: &str) -> usize {
    let mut depth = 1;
    for (at, c) in head.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    0
}

/// Parts between commas that stand in no parentheses.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !list[start..].trim().is_empty() {
        parts.push(list[start..].trim());
    }
    parts
}

fn ty(text: &str) -> Type {
    let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|t| t.strip_suffix(')'));
    if let Some(of) = inner("list(") {
        return Type::list(ty(of));
    }
    if let Some(of) = inner("optional(") {
        return Type::optional(ty(of));
    }
    if let Some(of) = inner("map(")
        && let [key, value] = split(of).as_slice()
    {
        return Type::map(ty(key), ty(value));
    }
    match text {
        "A" => Type::Var(0),
        "B" => Type::Var(1),
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::STRING,
        "bytes" => Type::BYTES,
        "timestamp" => Type::TIMESTAMP,
        "duration" => Type::DURATION,
        "type" => Type::Type,
        _ => LIBRARY_TYPES.iter().find(|(short, _)| *short == text).map_or(Type::DYN, |(_, name)| Type::Opaque(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_what_it_means() {
        let shown = |function: &str| -> Vec<String> {
            let form = |f: &Form| {
                let parameters = f.parameters.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
                format!("{}({parameters}) {}", if f.method { "." } else { "" }, f.result)
            };
            forms(function).iter().map(form).collect()
        };
        assert_eq!(shown("join"), [".(list(string)) string", ".(list(string), string) string"]);
        assert_eq!(shown("optional.of"), ["(dyn) optional_type(dyn)"]);
        assert_eq!(shown("getQuery"), [".(kubernetes.URL) map(string, list(string))"]);
        assert_eq!(shown("ip.isCanonical"), ["(string) bool"]);
        assert_eq!(shown("validate"), [".(kubernetes.NamedFormat, string) optional_type(list(string))"]);
        assert_eq!(shown("format.named"), ["(string) optional_type(kubernetes.NamedFormat)"]);
        assert_eq!(shown("optional.none"), ["() optional_type(dyn)"]);
        assert_eq!(shown("_?_:_"), ["(bool, dyn, dyn) dyn"]);
        assert_eq!(shown("_[_]").len(), 4);
        assert_eq!(shown("hasValue"), [".(optional_type(dyn)) bool"]);
        assert_eq!(shown("_<_").len(), 14);
    }
}
