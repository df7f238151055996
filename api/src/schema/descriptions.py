#!/usr/bin/env python3
"""Makes descriptions.txt: what OpenAPI says about every type and field, which the k8s-openapi crate carries as doc comments (Apache-2.0, as upstream).

  descriptions.py SRC     SRC is k8s-openapi's src/v1_36
"""
import os, re, sys

DOC = r'((?:^[ ]*///.*\n)+)'


def text(comment):
    lines = [re.sub(r'^ *///[ ]?', '', l) for l in comment.rstrip('\n').split('\n')]
    joined = '\n'.join(lines).strip()
    # rustdoc's escapes and links are no part of upstream's text.
    joined = re.sub(r'\\([\[\]<>*_`\\])', r'\1', joined)
    joined = re.sub(r'<(https?://[^>]*)>', r'\1', joined)
    return joined.replace('\\', '\\\\').replace('\n', '\\n')


def names(source):
    optional = {v: k for v, k in re.findall(r'value\) = &self\.(\w+) \{\s*crate::serde::ser::SerializeStruct::serialize_field\(&mut state, "([^"]+)"', source)}
    plain = {v: k for k, v in re.findall(r'serialize_field\(&mut state, "([^"]+)", &self\.(\w+)\)', source)}
    return {**optional, **plain}


def main():
    packages = {}
    for root, _, files in os.walk(sys.argv[1]):
        for f in sorted(files):
            source = open(os.path.join(root, f)).read()
            m = re.match(r'// Generated from definition (\S+)', source)
            if not m or m.group(1).endswith('List'):
                continue
            head = re.search(DOC + r'(?:#\[.*\]\n)*pub (?:struct|enum) \w+', source, re.M)
            body = re.search(r'pub struct \w+ \{\n(.*?)\n\}', source, re.S)
            package, name = m.group(1).rsplit('.', 1)
            lines = [name + (' ' + text(head.group(1)) if head else '')]
            if body:
                json = names(source)
                for doc, rust in re.findall(DOC + r'    pub (\w+): ', body.group(1), re.M):
                    if rust in json:
                        lines.append(f' {json[rust]} {text(doc)}')
            packages.setdefault(package, []).append(lines)
    for package in sorted(packages):
        print('package ' + package)
        for lines in sorted(packages[package]):
            print('\n'.join(lines))


main()
