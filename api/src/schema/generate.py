#!/usr/bin/env python3
"""Writes v1.36.txt. See README.md beside it.

  generate.py K8S_OPENAPI_SRC GO_BINARY > v1.36.txt

K8S_OPENAPI_SRC is the src/v1_36 directory of the k8s-openapi crate: which definitions and fields there are, their types and list types.
GO_BINARY is any statically linked Go program that contains k8s.io/api (an upstream kubectl): its run-time type information carries
the struct tags, from which come omitempty, pointers, named types, patch strategies and the order of fields.
OVERRIDES below holds what neither knows: list map keys that have defaults, and fields newer than the binary that are encoded unusually.
"""
import os, re, struct, sys

# ---- Go run-time type information (layout: internal/abi of go1.18 to go1.23) ----
class Binary:
    KINDS = {1: 'bool', 5: 'int32', 2: 'int64', 6: 'int64', 4: 'int32', 3: 'int32', 8: 'byte', 10: 'int64', 14: 'float64', 13: 'float64',
             20: 'interface', 21: 'map', 22: 'ptr', 23: 'slice', 24: 'string', 25: 'struct'}

    def __init__(self, path):
        self.d = open(path, 'rb').read()
        shoff, = struct.unpack_from('<Q', self.d, 0x28)
        count, names = struct.unpack_from('<HH', self.d, 0x3c)
        rows = [struct.unpack_from('<IIQQQQ', self.d, shoff + 64 * i) for i in range(count)]
        text = rows[names][4]
        self.sections = {self.d[text + r[0]:self.d.index(b'\0', text + r[0])].decode(): r for r in rows}
        self.base = self.sections['.rodata'][3]
        self.types, self.structs = {}, {}
        link = self.sections['.typelink']
        for i in range(link[5] // 4):
            self.type_at(self.base + struct.unpack_from('<i', self.d, link[4] + 4 * i)[0])

    def offset(self, address):
        for _, kind, _, start, off, size in self.sections.values():
            if kind != 8 and start and start <= address < start + size:
                return off + address - start
        raise KeyError(hex(address))

    def varint(self, o):
        v = s = 0
        while True:
            b = self.d[o]; o += 1; v |= (b & 127) << s; s += 7
            if b < 128: return v, o

    def name(self, o):
        flags = self.d[o]
        n, p = self.varint(o + 1)
        text, tag = self.d[p:p + n].decode(), ''
        if flags & 2:
            t, p = self.varint(p + n)
            tag = self.d[p:p + t].decode(errors='replace')
        return text, tag, bool(flags & 8)

    def type_at(self, address):
        if address in self.types: return self.types[address]
        o = self.offset(address)
        u64 = lambda at: struct.unpack_from('<Q', self.d, o + at)[0]
        tflag, kind = self.d[o + 20], self.KINDS.get(self.d[o + 23] & 31, 'other')
        text = self.name(self.offset(self.base + struct.unpack_from('<i', self.d, o + 40)[0]))[0]
        t = {'kind': kind, 'text': text[1:] if tflag & 2 else text, 'named': bool(tflag & 4), 'pkg': ''}
        self.types[address] = t
        if tflag & 1:
            at = {'ptr': 56, 'slice': 56, 'map': 88, 'struct': 80, 'interface': 80}.get(kind, 48)
            pkg, = struct.unpack_from('<i', self.d, o + at)
            try: t['pkg'] = self.name(self.offset(self.base + pkg))[0] if pkg else ''
            except (KeyError, UnicodeDecodeError): pass
        if kind in ('ptr', 'slice'): t['elem'] = self.type_at(u64(48))
        if kind == 'map': t['elem'] = self.type_at(u64(56))
        if kind == 'struct':
            if t['named']: self.structs[t['pkg'] + '.' + t['text'].split('.')[-1]] = t
            fields, n = u64(56), u64(64)
            t['fields'] = []
            for i in range(n):
                at = self.offset(fields) + 24 * i
                name, typ = struct.unpack_from('<QQ', self.d, at)
                t['fields'].append(self.name(self.offset(name)) + (self.type_at(typ),))
        return t

def go_fields(t):
    """(json name, omitempty, omitzero, strategy, merge key, type), embedded structs flattened."""
    for name, tag, embedded, typ in t['fields']:
        m = re.search(r'json:"([^"]*)"', tag)
        parts = (m.group(1) if m else '').split(',')
        if parts[0] == '-': continue
        if embedded and not parts[0]:
            inner = typ['elem'] if typ['kind'] == 'ptr' else typ
            if inner['text'].endswith('TypeMeta'):
                yield ('kind', True, False, '', '', {'kind': 'string', 'named': False, 'text': 'string'})
                yield ('apiVersion', True, False, '', '', {'kind': 'string', 'named': False, 'text': 'string'})
            elif inner['kind'] == 'struct': yield from go_fields(inner)
            continue
        strategy = re.search(r'patchStrategy:"([^"]*)"', tag)
        key = re.search(r'patchMergeKey:"([^"]*)"', tag)
        yield (parts[0] or name, 'omitempty' in parts, 'omitzero' in parts, strategy.group(1) if strategy else '', key.group(1) if key else '', typ)

# ---- the crate's source ----
SPECIAL = {'crate::apimachinery::pkg::api::resource::Quantity': 'quantity', 'crate::apimachinery::pkg::apis::meta::v1::Time': 'time',
    'crate::apimachinery::pkg::apis::meta::v1::MicroTime': 'microtime', 'crate::apimachinery::pkg::util::intstr::IntOrString': 'intorstring',
    'crate::apimachinery::pkg::runtime::RawExtension': 'raw', 'crate::apimachinery::pkg::apis::meta::v1::FieldsV1': 'raw',
    'crate::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSON': 'json',
    'crate::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray': 'json',
    'crate::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrBool': 'json',
    'crate::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrStringArray': 'json',
    'std::string::String': 'string', 'bool': 'bool', 'i32': 'int32', 'i64': 'int64', 'f64': 'float64', 'crate::ByteString': 'bytes',
    'serde_json::Value': 'json', 'crate::serde_json::Value': 'json', 'crate::jiff::Timestamp': 'time'}

def rust_type(s, home):
    if m := re.fullmatch(r'(?:Option|std::boxed::Box)<(.*)>', s): return rust_type(m.group(1), home)
    if m := re.fullmatch(r'std::vec::Vec<(.*)>', s): return '[]' + rust_type(m.group(1), home)
    if m := re.fullmatch(r'std::collections::BTreeMap<std::string::String, (.*)>', s): return '{}' + rust_type(m.group(1), home)
    if s in SPECIAL: return SPECIAL[s]
    m = re.fullmatch(r'crate::(.*)::(\w+)', s)
    assert m, s
    package = definition_package(m.group(1))
    return m.group(2) if package == home else package + '.' + m.group(2)

def definition_package(rust):
    rust = rust.replace('::', '.')
    for a, b in (('apiextensions_apiserver', 'io.k8s.apiextensions-apiserver'), ('kube_aggregator', 'io.k8s.kube-aggregator'),
                 ('apimachinery', 'io.k8s.apimachinery'), ('api', 'io.k8s.api')):
        if rust == a or rust.startswith(a + '.'): return b + rust[len(a):]
    raise ValueError(rust)

def go_package(definition):
    return definition.replace('io.k8s.', 'k8s.io/', 1).replace('.', '/').replace('k8s/io', 'k8s.io')

def rust_definitions(src):
    for root, _, files in os.walk(src):
        for f in sorted(files):
            text = open(os.path.join(root, f)).read()
            m = re.match(r'// Generated from definition (\S+)', text)
            body = re.search(r'pub struct (\w+) \{\n(.*?)\n\}', text, re.S)
            if m and re.search(r'pub struct \w+(;|\(pub (crate::)?serde_json::Value\))', text) and m.group(1).endswith(('Spec', 'Status', 'Policy')):
                yield m.group(1), []   # an empty struct in Go
                continue
            if not m or not body or m.group(1).endswith('List') or '.pkg.version.' in m.group(1): continue
            types = dict(re.findall(r'^    pub (\w+): (.*),$', body.group(2), re.M))
            optional = {v: k for v, k in re.findall(r'value\) = &self\.(\w+) \{\s*crate::serde::ser::SerializeStruct::serialize_field\(&mut state, "([^"]+)"', text)}
            plain = {v: k for k, v in re.findall(r'serialize_field\(&mut state, "([^"]+)", &self\.(\w+)\)', text)}
            merge = text[text.find('impl crate::DeepMerge'):]
            merge = merge[:merge.find('\n}\n')]
            fields = []
            for rust, t in types.items():
                name = optional.get(rust) or plain.get(rust)
                if not name: print('no name', m.group(1), rust, file=sys.stderr); continue
                list_type = ''
                if mm := re.search(r'list::map\(\s*&mut self\.%s,\s*other\.%s,\s*&\[(.*?)\],\n' % (rust, rust), merge, re.S):
                    keys = re.findall(r'lhs\.(\w+) == rhs', mm.group(1))
                    list_type = 'map=' + ','.join(keys)
                elif re.search(r'list::set\(&mut self\.%s,' % rust, merge): list_type = 'set'
                elif re.search(r'map::atomic\(&mut self\.%s,' % rust, merge): list_type = 'atomic'
                fields.append((name, t, rust in plain, list_type))
            if 'impl crate::Resource for ' + body.group(1) in text: fields[:0] = [(n, 'std::string::String', False, '') for n in ('kind', 'apiVersion') if n not in [f[0] for f in fields]]
            yield m.group(1), fields

def camel(rust):  # device_path -> devicePath; keys are spelt in Rust's way there
    head, *rest = rust.rstrip('_').split('_')
    return head + ''.join({'id': 'ID', 'ip': 'IP'}.get(r, r.capitalize()) for r in rest)

from overrides import OVERRIDES, ATOMIC_STRUCTS

def main():
    src, binary = sys.argv[1:3]
    go = Binary(binary).structs
    packages = {}
    missing = []
    for definition, fields in rust_definitions(src):
        package, name = definition.rsplit('.', 1)
        t = go.get(go_package(package) + '.' + name)
        if t is None and fields:   # a version younger than the binary: an older one of the same group tells as much
            parent = go_package(package).rsplit('/', 1)[0]
            older = sorted(k for k in go if k.startswith(parent + '/') and k.endswith('.' + name))
            t = go[older[-1]] if older else None
        facts = {f[0]: (i,) + f[1:] for i, f in enumerate(go_fields(t))} if t else {}
        lines = []
        for n, (json, rtype, required, list_type) in enumerate(fields):
            kind = rust_type(rtype, package)
            flags = []
            fact = facts.get(json)
            order = -1 if json in ('kind', 'apiVersion') and rtype == 'std::string::String' and n < 2 else fact[0] if fact else 1000 + n
            pointer = named = ''
            if fact:
                _, omitempty, omitzero, strategy, key, gt = fact
                if gt['kind'] == 'ptr': pointer = '*'; gt = gt['elem']
                elif gt['kind'] == 'slice' and gt['elem']['kind'] == 'ptr': pointer = '[]*'
                e = gt
                while e['kind'] in ('slice', 'map') and not (e['named']): e = e['elem']
                if e['named'] and '.' in e['text'] and e['kind'] in ('string', 'int32', 'slice', 'map', 'bool') and e['text'].split('.')[-1] not in ('Quantity',):
                    named = e['text']
                if not omitempty and not omitzero: flags.append('always')
                if omitzero: flags.append('omitzero')
            else:
                base = kind.split('.')[-1]
                if t is not None or not facts: missing.append(definition + '.' + json + (' required' if required else '') + ' ' + kind)
                strategy = key = ''
                if required: flags.append('always')
                elif not kind.startswith(('[]', '{}')): pointer = '*' if (base[0].isupper() and not required or kind in ('bool', 'int32', 'int64', 'quantity', 'time', 'microtime', 'intorstring')) else ''
            if json == 'metadata' and kind.endswith('ObjectMeta'): pointer, flags = '', []
            if json in ('status',) and kind[0].isupper() and not fact: pointer = ''
            if required: flags.append('required')
            if list_type.startswith('map='): list_type = 'map=' + ','.join(camel(k) for k in list_type[4:].split(','))
            if list_type: flags.append(list_type)
            if 'merge' in strategy: flags.append('merge=' + key if key else 'merge')
            if 'retainKeys' in strategy: flags.append('retainKeys')
            for k, v in OVERRIDES.get(name + '.' + json, {}).items():
                if k == 'pointer': pointer = v; continue
                if k == 'type': kind = v; continue
                if v is None: flags = [f for f in flags if f.split('=')[0] != k]; continue
                flags = [f for f in flags if f.split('=')[0] != k]
                if v is not None: flags.append(k if v is True else k + '=' + v)
            if named: flags.append('go=' + named)
            lines.append((order, ' ' + ' '.join([json, pointer + kind if pointer != '[]*' else kind] + flags)))
        lines.sort(key=lambda l: l[0])
        packages.setdefault(package, {})[name] = [l for _, l in lines]
    for package in sorted(packages):
        print('package ' + package)
        for name in sorted(packages[package]):
            print(name + (' atomic' if name in ATOMIC_STRUCTS or package + '.' + name == 'io.k8s.api.autoscaling.v1.CrossVersionObjectReference' else ''))
            for l in packages[package][name]: print(l)
    for m in missing: print('missing', m, file=sys.stderr)

main()
