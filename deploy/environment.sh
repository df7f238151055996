# What up, down, status and images agree on: where things are, what they are called, and how a process is started and found again.
# Sourced, never run. Every name that reaches beyond deploy/run (link, cgroup, table of packet rules) carries an id of the state directory, so that two clusters do not meet.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
run=${SKIFF_RUN:-$root/deploy/run}
# release, or debug for who works on it.
profile=${SKIFF_PROFILE:-release}
bin=$root/target/$profile
cache=$root/target/images
id=$(printf %s "$run" | sha256sum | cut -c1-6)

port=${SKIFF_PORT:-6443}
kubelet_port=${SKIFF_KUBELET_PORT:-10250}
registry_port=${SKIFF_REGISTRY_PORT:-6580}
# Health and metrics of scheduler and controller-manager: upstream's ports, or ones beside another cluster's.
scheduler_port=$([ "$port" = 6443 ] && echo 10259 || echo $((port + 300)))
controller_manager_port=$([ "$port" = 6443 ] && echo 10257 || echo $((port + 400)))
proxy_health_port=$([ "$port" = 6443 ] && echo 10256 || echo $((port + 500)))
proxy_metrics_port=$([ "$port" = 6443 ] && echo 10249 || echo $((port + 600)))
network_port=$([ "$port" = 6443 ] && echo 10261 || echo $((port + 900)))
# On the bridge, where nobody else listens; 53 would meet a resolver of the machine that answers on every address.
dns_port=$([ "$port" = 6443 ] && echo 10053 || echo $((port + 700)))
dns_http_port=$([ "$port" = 6443 ] && echo 9153 || echo $((port + 800)))
pod_cidr=${SKIFF_POD_CIDR:-10.244.0.0/24}
service_cidr=${SKIFF_SERVICE_CIDR:-10.96.0.0/16}
# The tenth address of the range, as everywhere.
dns_address=${service_cidr%.*}.10
cluster_domain=cluster.local

bridge=skiff$id
proxy_table=kube-proxy-$id
# Addresses of Services of type LoadBalancer, out of a range that no real network has (RFC 2544).
balancer_cidr=${SKIFF_LOAD_BALANCER_CIDR:-198.18.$((16#${id:0:2})).0/24}
network_table=pod-network-$id
# The node's address on the pods' bridge: what pods reach this machine by, whatever network it is on.
gateway=${pod_cidr%.*}.1
cgroup_root=/skiff$id
# Where systemd runs, cgroups are its to make.
cgroup_driver=${SKIFF_CGROUP_DRIVER:-$([ -d /run/systemd/system ] && echo systemd || echo cgroupfs)}
pause_image=localhost/skiff/pause:1
server=https://127.0.0.1:$port

# A Unix socket's path holds 107 bytes; a checkout that lies deep gets its socket under /run.
containerd_socket=$run/containerd/containerd.sock
[ ${#containerd_socket} -le 100 ] || containerd_socket=/run/skiff-$id.sock

started_at=$(date +%s%N)

# step TEXT: what is about to happen, with the time since the start.
step() {
  printf '%7.2fs  %s\n' "$(( ($(date +%s%N) - started_at) / 10000000 ))e-2" "$*"
}

programs=(apiserver scheduler controller-manager kubelet kube-proxy pod-network dns kubectl)

# build [ARGUMENT...]: all programs, and what more cargo is told to build. Always all: another choice of packages is another choice of their dependencies' features,
# and most would be built once more.
build() {
  (cd "$root" && cargo build --profile "${profile/debug/dev}" --quiet "${programs[@]/#/--package=}" "$@")
}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The kernel's start time of process PID: with the id it names a process for good, where the id alone is used again.
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  set -- ${stat##*) }
  echo "${20}"
}

# pid_of NAME: the id of the process we started under that name, if it still runs.
pid_of() {
  local pid time
  read -r pid time 2>/dev/null <"$run/pids/$1" || return 1
  [ "$(start_time "$pid")" = "$time" ] && [ "$(process_state "$pid")" != Z ] && echo "$pid"
}

process_state() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  echo "${stat%% *}"
}

# start NAME COMMAND...: in a session of its own, its output in deploy/run/logs/NAME.log, its id in deploy/run/pids/NAME.
start() {
  local name=$1 pid
  shift
  mkdir -p "$run/pids" "$run/logs"
  setsid "$@" >>"$run/logs/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  echo "$pid $(start_time "$pid")" >"$run/pids/$name"
}

# stop NAME [SECONDS]: SIGTERM, and SIGKILL when it has not ended in time (10 s).
stop() {
  local pid deadline
  pid=$(pid_of "$1") || { rm -f "$run/pids/$1"; return 0; }
  kill -TERM "$pid" 2>/dev/null
  deadline=$((SECONDS + ${2:-10}))
  while pid_of "$1" >/dev/null; do
    [ $SECONDS -lt $deadline ] || kill -KILL "$pid" 2>/dev/null
    sleep 0.02
  done
  rm -f "$run/pids/$1"
}

# until_true SECONDS WHAT NAME COMMAND...: waits until COMMAND succeeds; fails when it has not in time or when process NAME has ended.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2 name=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    pid_of "$name" >/dev/null || { tail -n 20 "$run/logs/$name.log" >&2; fail "$name ended; its log is $run/logs/$name.log"; }
    [ $SECONDS -lt $deadline ] || { tail -n 20 "$run/logs/$name.log" >&2; fail "$what: not within the time; see $run/logs/$name.log"; }
    sleep 0.02
  done
}

kubectl() {
  "$bin/kubectl" --kubeconfig "$run/kubeconfig" "$@"
}

# Brings the images that are made here into the registry on loopback.
push_images() {
  local archive name
  while read -r archive name; do
    curl -sf -o /dev/null -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://127.0.0.1:$registry_port/v2/library/${name/:/\/manifests\/}" ||
      skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci-archive:$cache/$archive" "docker://127.0.0.1:$registry_port/library/$name"
  done <"$cache/names"
}
