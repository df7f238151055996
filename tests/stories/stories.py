#!/usr/bin/python3
"""What a real Kubernetes v1.36.2 cluster (kubelet on containerd 1.6, one node, no cluster DNS) did in each story of stories.yaml, and whether another does the same.

  stories.py [--kubeconfig FILE] [--kubectl BINARY] [--only WORD] [--parallel N] [--update]

told/<story>.json holds what each command printed and its exit code; the distinct lines (READY, STATUS, RESTARTS) that each pod went through in `get pods`, in order;
every event (type, reason, message, object, component); and the last status of each pod. What cannot be the same twice is masked on both sides: times, addresses, ids,
random suffixes, the node's name. How far a story had come when it was cut off is timing: lines may go on longer on one side, and a pod that was cut off elsewhere
ends with another status. differs.yaml lists what else differs on purpose, and why; same.txt the stories in which nothing else does. One of those that differs is
played once more by itself, since a busy machine is not what is tested; then it is a failure. --update writes same.txt anew.
Stories run beside each other, each in a namespace of its own; those marked `alone` change the node and run first.
"""
import argparse, concurrent.futures, fnmatch, json, os, re, shlex, subprocess, sys, threading, time
import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
MANIFESTS = os.path.join(os.path.dirname(HERE), "manifests")
TOLD, SAME, DIFFERS = (os.path.join(HERE, name) for name in ("told", "same.txt", "differs.yaml"))
# Longer than any command of a story waits by itself.
COMMAND_SECONDS = 100
UNTIL_SECONDS = 90
IMAGES = ["busybox:1.28", "nginx:1.14", "nginx:1.14.2"]

SUFFIX = "[bcdfghjklmnpqrstvwxz2456789]{5}"
MASKS = [(re.compile(pattern), put) for pattern, put in [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
    (r"[0-9a-f]{64}", "ID"),
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "TIME"),
    (r"kube-api-access-[a-z0-9]{5}", "kube-api-access-XXXXX"),
    (rf"-[a-z0-9]{{8,10}}-{SUFFIX}\b", "-HASH-XXXXX"),
    (r"\b(web|ok|bad)-[a-z0-9]{8,10}\b", r"\1-HASH"),
    (rf"\b(d|ok|bad)-{SUFFIX}\b", r"\1-XXXXX"),
    (r"\b10\.\d+\.\d+\.\d+\b|\b172\.\d+\.\d+\.\d+\b|\b192\.\d+\.\d+\.\d+\b", "IP"),
    (r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\]", "[TIME]"),
    (r"\bsize=\d+k", "size=Nk"),
    (r"\bin \d+(\.\d+)?m?s( \(\d+(\.\d+)?m?s including waiting\))?", "in TIME"),
    (r"\b(\d+m)?\d+s\b", "AGE"),
    (r"[Ii]mage size: \d+", "Image size: N"),
    (r"story-[a-z-]+", "NS"),
    (r"127\.0\.0\.1:\d+", "ADDR"),
    (r":\d{5}->", ":PORT->"),
]]


class Cluster:
    """One cluster, by a kubectl and a kubeconfig."""

    def __init__(self, kubectl, kubeconfig):
        self.command = [kubectl, "--kubeconfig", kubeconfig]
        names = self.run("default", ["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])[1].split()
        if len(names) != 1:
            sys.exit(f"the stories are those of one node, not of {names}")
        self.node = names[0]

    def run(self, namespace, arguments, body=None):
        try:
            done = subprocess.run([*self.command, "-n", namespace, *arguments], input=body, capture_output=True, text=True, timeout=COMMAND_SECONDS)
            return done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            return "timeout", "", ""

    def masked(self, value):
        """The value without what differs from run to run."""
        if isinstance(value, dict):
            return {k: self.masked(v) for k, v in value.items() if k != "resourceVersion"}
        if isinstance(value, list):
            return [self.masked(v) for v in value]
        if not isinstance(value, str):
            return value
        value = re.sub(rf"(?<![\w.-]){re.escape(self.node)}(?![\w-])", "n1", value)
        for pattern, put in MASKS:
            value = pattern.sub(put, value)
        return value


def tell(cluster, story):
    """Plays a story; answers with what happened."""
    namespace = "story-" + story["name"]
    cluster.run("default", ["create", "ns", namespace])
    while cluster.run(namespace, ["get", "sa", "default"])[0] != 0:
        time.sleep(0.2)
    watch = subprocess.Popen([*cluster.command, "-n", namespace, "get", "pods", "-w", "--no-headers"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines, said = {}, []

    def read():
        for line in watch.stdout:
            fields = re.split(r" {2,}", line.strip())
            if len(fields) >= 4:
                row = [fields[1], fields[2], re.sub(r" \(.*", "", fields[3])]
                seen = lines.setdefault(cluster.masked(fields[0]), [])
                if not seen or seen[-1] != row:
                    seen.append(row)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    # The watch has to be there before the first pod is.
    time.sleep(0.7)

    def run(arguments, body=None):
        told = " ".join(arguments)
        code, out, err = cluster.run(namespace, [cluster.node if a == "n1" else a for a in arguments], body)
        err = re.sub(r"(?m)^[EWI]\d{4} .*\n?", "", cluster.masked(err))
        said.append({"command": told, "exit": code, "out": cluster.masked(out), "err": err})

    for part in story["apply"]:
        run(["apply", "-f", "-"], open(os.path.join(MANIFESTS, part["file"])).read() if "file" in part else json.dumps(part["inline"]))
    for step in story["do"]:
        if isinstance(step, str):
            run(shlex.split(step))
        elif "sleep" in step:
            time.sleep(step["sleep"])
        else:
            end = time.monotonic() + UNTIL_SECONDS
            while time.monotonic() < end and cluster.run(namespace, shlex.split(step["until"]))[1] != step["is"]:
                time.sleep(0.3)
    time.sleep(1)
    items = {kind: json.loads(cluster.run(namespace, ["get", kind, "-o", "json"])[1])["items"] for kind in ("pods", "events")}
    watch.kill()
    watch.wait()
    reader.join()

    def event(e):
        about = e["involvedObject"]
        component = e.get("reportingComponent") or (e.get("source") or {}).get("component", "")
        return (e.get("type"), e.get("reason"), cluster.masked(e.get("message", "")), about["kind"], about.get("fieldPath", ""), component)

    events = sorted({event(e) for e in items["events"]}, key=str)
    status = {cluster.masked(p["metadata"]["name"]): cluster.masked(p["status"]) for p in items["pods"]}
    cluster.run("default", ["delete", "ns", namespace, "--wait=false"])
    cluster.run(namespace, ["delete", "pods", "--all", "--grace-period=0", "--force"])
    return {"commands": said, "lines": lines, "events": [list(e) for e in events], "status": status}


def leaves(value, path=""):
    """The plain values in a nested one, by path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{path}.{key}").items()}
    if isinstance(value, list):
        # By name or type, where there is one, so that one more does not shift the others.
        name = lambda at, inner: inner.get("type") or inner.get("name") or at if isinstance(inner, dict) else at
        return {k: v for at, inner in enumerate(value) for k, v in leaves(inner, f"{path}[{name(at, inner)}]").items()}
    return {path: value}


def goes_on(a, b):
    """Whether one list is the other's beginning."""
    return a[: len(b)] == b[: len(a)]


def of_many(name):
    """Whether several pods have this name once it is masked: whose line came first is chance."""
    return "XXXXX" in name


def differences(want, got):
    """What differs, a line each."""
    out = []
    for a, b in zip(want["commands"], got["commands"]):
        if a != b:
            out.append(f"{a['command'][:70]}: wanted {a['exit']} {(a['out'] + a['err'])!r}, got {b['exit']} {(b['out'] + b['err'])!r}")
    cut = set()
    for pod in sorted(want["lines"].keys() | got["lines"].keys()):
        w, g = want["lines"].get(pod, []), got["lines"].get(pod, [])
        if w[-1:] != g[-1:]:
            cut.add(pod)
        if {*map(tuple, w)} != {*map(tuple, g)} if of_many(pod) else not goes_on(w, g) or not g:
            out.append(f"{pod}: wanted {w}, got {g}")
    w, g = ({tuple(e) for e in told["events"]} for told in (want, got))
    out += [f"event missing: {e}" for e in sorted(w - g, key=str)] + [f"event not wanted: {e}" for e in sorted(g - w, key=str)]
    for pod in sorted(want["status"].keys() & got["status"].keys() - cut):
        w, g = leaves(want["status"][pod]), leaves(got["status"][pod])
        out += [f"status of {pod}{path}: wanted {w.get(path)!r}, got {g.get(path)!r}" for path in sorted(w.keys() | g.keys()) if w.get(path) != g.get(path)]
    out += [f"status of {pod} is on one side alone" for pod in sorted(want["status"].keys() ^ got["status"].keys())]
    return out


def play(cluster, story, allowed):
    """Plays a story; answers with what differs and is not explained."""
    want = cluster.masked(json.load(open(os.path.join(TOLD, story["name"] + ".json"))))
    patterns = [re.compile(entry["line"]) for entry in allowed if fnmatch.fnmatch(story["name"], entry["story"])]
    return [line for line in differences(want, tell(cluster, story)) if not any(p.search(line) for p in patterns)]


def pull_images(cluster):
    """Has the images on the node, as they were when the stories were told."""
    for image in IMAGES:
        name = "image-" + re.sub(r"[^a-z0-9]", "-", image)
        cluster.run("default", ["run", name, "--image", image, "--restart=Never", "--", "true"])
        end = time.monotonic() + UNTIL_SECONDS
        while time.monotonic() < end and cluster.run("default", ["get", "pod", name, "-o", "jsonpath={.status.phase}"])[1] not in ("Succeeded", "Failed"):
            time.sleep(0.2)
        cluster.run("default", ["delete", "pod", name, "--now"])


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG", ""))
    flags.add_argument("--kubectl", default="kubectl")
    flags.add_argument("--only", default="")
    flags.add_argument("--parallel", type=int, default=8)
    flags.add_argument("--update", action="store_true")
    options = flags.parse_args()
    cluster = Cluster(options.kubectl, options.kubeconfig)
    stories = [s for s in yaml.safe_load(open(os.path.join(HERE, "stories.yaml"))) if options.only in s["name"]]
    # Those that take longest first, so that they do not end long after the others.
    stories.sort(key=lambda s: -sum(step["sleep"] for step in s["do"] if isinstance(step, dict) and "sleep" in step))
    allowed = yaml.safe_load(open(DIFFERS))
    pull_images(cluster)
    found = {s["name"]: play(cluster, s, allowed) for s in stories if s.get("alone")}
    beside = [s for s in stories if not s.get("alone")]
    with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
        found.update(zip((s["name"] for s in beside), pool.map(lambda s: play(cluster, s, allowed), beside)))

    listed = [line.strip() for line in open(SAME) if line.strip()] if os.path.exists(SAME) else []
    for story in stories:
        if found[story["name"]] and story["name"] in listed:
            print(f"once more: {story['name']}\n" + "".join(f"    {line[:1500]}\n" for line in found[story["name"]]), end="", flush=True)
            found[story["name"]] = play(cluster, story, allowed)
    for name in sorted(n for n in found if found[n]):
        print(f"{'LOST' if name in listed else 'differs'}: {name}\n" + "".join(f"    {line[:1500]}\n" for line in found[name]), end="")
    same = sorted(name for name in found if not found[name])
    if options.update:
        with open(SAME, "w") as f:
            f.write("".join(name + "\n" for name in sorted({*listed, *same} - {n for n in found if found[n]})))
    elif new := [name for name in same if name not in listed]:
        print("newly the same, not yet in same.txt: " + " ".join(new))
    print(f"{len(same)} of {len(found)} stories go as told")
    sys.exit(1 if not options.update and any(name in listed for name in found if found[name]) else 0)


main()
