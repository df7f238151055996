#!/usr/bin/env python3
"""Makes numbers.txt: the protobuf field numbers of the types in v1.36.txt.

  numbers.py DIRECTORY_OF_THE_K8S_PB_CRATE > numbers.txt

The crate's source has them as prost attributes; where it is older than a type, those of the type's beta count, which keeps its numbers. A field of a message that the JSON form does not have is a part that JSON writes inline
(`Volume`'s `volumeSource`): it is written as +Type=number, and that type's own fields follow on a line of their own.
"""
import re, sys, pathlib

def squash(name): return re.sub("[^a-z0-9]", "", name.lower())

def messages(root):
    found = {}
    for path in pathlib.Path(root, "src").rglob("mod.rs"):
        package = "io.k8s." + ".".join(path.relative_to(pathlib.Path(root, "src")).parts[:-1]).replace("_", "-")
        for name, body in re.findall(r"pub struct (\w+) \{\n(.*?)\n\}", path.read_text(), re.S):
            name = name.removeprefix("r#")
            fields = re.findall(r"#\[prost\(([^\]]*?)\)\]\s*pub (?:r#)?(\w+):\s*(.*?)(?:,\n|\n#|\Z)", body + ",\n", re.S)
            found[package + "." + name] = [(f, int(re.search(r'tag ?= ?"(\d+)"', attr).group(1)), ty) for attr, f, ty in fields]
    return found

def schema(path):
    types, package, current = {}, "", None
    for line in open(path):
        line = line.rstrip("\n")
        if line.startswith("package "): package = line.split()[1]
        elif line.startswith(" "): types[current].append(line.split()[0])
        elif line: current = package + "." + line.split()[0]; types[current] = []
    return types

def main():
    pb, types = messages(sys.argv[1]), schema(pathlib.Path(__file__).with_name("v1.36.txt"))
    by_key = {squash(k): k for k in pb}
    out, missing = {}, []
    def emit(full, json_fields):
        if full in out: return
        message = by_key.get(squash(full)) or by_key.get(squash(full).replace("v1", "v1beta1", 1))
        if not message: missing.append(full); return
        line, left = [], {squash(f): f for f in json_fields}
        out[full] = line
        for field, number, ty in pb[message]:
            if squash(field) in left: line.append(f"{left.pop(squash(field))}={number}"); continue
            inner = re.search(r"([A-Z]\w*)>?$", ty.strip(" ,\n"))
            if inner and inner.group(1) not in ("String", "WorkloadReference"):
                name = full.rsplit(".", 1)[0] + "." + inner.group(1)
                line.append(f"+{inner.group(1)}={number}")
                parts = {squash(f) for f, _, _ in pb.get(by_key.get(squash(name), ""), [])}
                for known in list(left):
                    if known in parts: left.pop(known)
                emit(name, json_fields)
        for f in left.values():
            if f not in ("kind", "apiVersion"): missing.append(full + "." + f)
    for full, fields in types.items():
        if not re.search(r"\.v\d+(alpha|beta)\d+\.", full): emit(full, fields)
    package = ""
    for full in sorted(out):
        p, name = full.rsplit(".", 1)
        if p != package: print("package", p); package = p
        print(name, *out[full])
    print("\n".join(missing), file=sys.stderr)

main()
