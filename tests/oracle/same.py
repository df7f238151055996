#!/usr/bin/python3
"""Plays the recorded cases against our apiserver alone and holds the result against same.txt, the list of cases that answer as recorded.

  same.py [--update]      a listed case that differs is a failure; with --update the list is written anew

Starts target/$SKIFF_PROFILE/apiserver (release where that is not set) on a free port with a store in a temporary directory, and ends it by its id.
"""
import os, re, socket, ssl, subprocess, sys, tempfile, time, urllib.request
import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIST = os.path.join(HERE, "same.txt")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_ready(server, process, log):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the apiserver ended with {process.returncode}:\n{open(log).read()[-2000:]}")
        try:
            if urllib.request.urlopen(server + "/readyz", context=ssl._create_unverified_context(), timeout=2).status == 200:
                return
        except OSError:
            time.sleep(0.02)
    sys.exit("the apiserver is not ready after 20 s")


def cases():
    found = []
    for name in sorted(os.listdir(os.path.join(HERE, "cases"))):
        stem = name.removesuffix(".yaml")
        found += [f"{stem}/{case['id']}" for case in yaml.safe_load(open(os.path.join(HERE, "cases", name)))]
    return found


def main():
    files = [os.path.join(HERE, "cases", f) for f in sorted(os.listdir(os.path.join(HERE, "cases")))]
    with tempfile.TemporaryDirectory(prefix="skiff-oracle-") as work:
        tokens, log, port = os.path.join(work, "tokens"), os.path.join(work, "log"), free_port()
        with open(tokens, "w") as f:
            f.write('admin,admin,1,"system:masters"\nbob,bob,2,\n')
        server = f"https://127.0.0.1:{port}"
        process = subprocess.Popen([os.path.join(ROOT, "target", os.environ.get("SKIFF_PROFILE", "release"), "apiserver"), "--secure-port", str(port), "--bind-address", "127.0.0.1", "--cert-dir",
                                    os.path.join(work, "pki"), "--data-dir", os.path.join(work, "data"), "--token-auth-file", tokens, "--authorization-mode", "RBAC"],
                                   stdout=open(log, "w"), stderr=subprocess.STDOUT)
        try:
            wait_ready(server, process, log)
            played = subprocess.run([sys.executable, os.path.join(HERE, "oracle.py"), "check", "--server", server, "--token", "admin", "--bob", "bob", "--show", "3", *files],
                                    capture_output=True, text=True)
        finally:
            process.terminate()
            process.wait(10)
    differ = dict.fromkeys(re.findall(r"^differs: (\S+)$", played.stdout, re.M))
    total = cases()
    if not re.search(r"^\d+ same", played.stdout, re.M):
        sys.exit(f"the cases could not be played:\n{played.stdout[-2000:]}{played.stderr[-2000:]}")
    same = [c for c in total if c not in differ]
    if "--update" in sys.argv[1:]:
        with open(LIST, "w") as f:
            f.write("".join(c + "\n" for c in same))
    listed = [l.strip() for l in open(LIST) if l.strip()] if os.path.exists(LIST) else []
    lost = [c for c in listed if c not in same]
    new = [c for c in same if c not in listed]
    for name in sorted({c.split("/")[0] for c in total}):
        of = [c for c in total if c.startswith(name + "/")]
        print(f"{name}: {sum(c in same for c in of)} of {len(of)} answer as recorded")
    if new:
        print(f"{len(new)} newly the same, not yet in same.txt: {' '.join(new[:20])}")
    if lost:
        print(played.stdout)
        print("lost: " + " ".join(lost))
    print(f"{len(same)} of {len(total)} cases answer as recorded")
    sys.exit(1 if lost else 0)


main()
