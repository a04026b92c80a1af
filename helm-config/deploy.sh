# shellcheck shell=bash
# The common part of both deploy scripts, which source it. It does nothing by itself.

# Pinned, so that later runs install the same version.
readonly TIDB_OPERATOR=v1.6.3

readonly CONFIG="$ROOT/helm-config"
readonly NAMESPACE=${NAMESPACE:-till}
readonly RELEASE=till

say() {
  printf '\n==> %s\n' "$*"
}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

need() { # PROGRAM WHERE-FROM
  command -v "$1" >/dev/null || fail "$1 is not installed: see $2"
}

# install_till needs --take-ownership after --store-only, which came with 3.17.
need_helm() {
  need helm https://helm.sh/docs/intro/install/
  local version major minor
  version=$(helm version --template '{{.Version}}')
  version=${version#v}
  major=${version%%.*}
  minor=${version#*.}
  minor=${minor%%.*}
  [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge 17 ]; } ||
    fail "helm $version is too old: 3.17 or later is needed"
}

# kubectl and helm against the chosen cluster and no other.
kube() {
  kubectl --context "$CONTEXT" "$@"
}

helm_here() {
  helm --kube-context "$CONTEXT" "$@"
}

install_tidb_operator() {
  say "tidb-operator $TIDB_OPERATOR, which runs PD and TiKV"
  kube apply --server-side --force-conflicts --filename \
    "https://raw.githubusercontent.com/pingcap/tidb-operator/$TIDB_OPERATOR/manifests/crd.yaml"
  helm_here upgrade --install tidb-operator tidb-operator --repo https://charts.pingcap.com \
    --version "$TIDB_OPERATOR" --namespace tidb-admin --create-namespace \
    --values "$CONFIG/tidb-operator-values.yaml" --wait --timeout 10m
}

make_namespace() {
  say "namespace $NAMESPACE, which admits locked-down pods only from us, and tidb-operator's"
  kube create namespace "$NAMESPACE" --dry-run=client --output yaml | kube apply --filename -
  # Pods that do not meet `restricted` (the store's) only cause a warning.
  kube label namespace "$NAMESPACE" --overwrite pod-security.kubernetes.io/warn=restricted
}

install_store() { # VALUES...
  say "PD and TiKV alone, and the policy that guards them"
  local applied object cluster=tidbcluster/$RELEASE-store
  # Without --validate, helm would assume the Kubernetes version that it was built with.
  applied=$(helm_here template "$RELEASE" "$CONFIG/till" "$@" --validate --show-only templates/tidb-cluster.yaml |
    kube apply --namespace "$NAMESPACE" --filename - --output name)
  echo "$applied"
  # Values may give the cluster another name.
  while read -r object; do
    case "$object" in tidbcluster*) cluster=$object ;; esac
  done <<<"$applied"
  say "waiting until TiKV is ready"
  kube wait --namespace "$NAMESPACE" --for=condition=Ready "$cluster" --timeout=20m
}

# Decides which ingress to use, before anything is installed. INGRESS becomes `none`, `ours` for this script's
# controller, or `theirs` for the cluster's own, which is left as it is; then CLASS is its class.
find_ingress() { # COMMAND: tells whether the installed controller is ours
  CLASS=${INGRESS_CLASS:-}
  if [ -n "$NO_INGRESS" ]; then
    INGRESS=none
  elif [ -n "$CLASS" ]; then
    INGRESS=theirs
  elif "$1"; then
    INGRESS=ours
  else
    local classes others name is_default
    # Each name, and whether it is the default.
    classes=$(kube get ingressclasses --output \
      'jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.annotations.ingressclass\.kubernetes\.io/is-default-class}{"\n"}{end}')
    # A controller may serve a class without an IngressClass object.
    others=$(kube get deployments,daemonsets --all-namespaces --selector app.kubernetes.io/name=ingress-nginx --output name)
    INGRESS=theirs
    [ -n "$classes$others" ] || INGRESS=ours
    while read -r name is_default; do
      if [ "$name" = nginx ] || { [ "$is_default" = true ] && [ "$CLASS" != nginx ]; }; then CLASS=$name; fi
    done <<<"$classes"
    [ "$INGRESS" = ours ] || [ -n "$CLASS" ] ||
      fail "the cluster has ingress controllers, and none of their classes is called nginx or is the default:" \
        "say INGRESS_CLASS=..., or --no-ingress. There are: ${classes//$'\n'/, } ${others//$'\n'/, }"
  fi
  readonly INGRESS CLASS
  case "$INGRESS" in
    theirs) say "ingress class $CLASS of the cluster, whose controller stays as it is" ;;
    none) say "no ingress" ;;
  esac
}

# Values that override the script's own, and that VALUES overrides. The cluster's own controller may not overwrite
# X-Request-Id.
ingress_values() {
  [ "$INGRESS" != theirs ] || echo "ingress: {className: \"$CLASS\", mintsRequestId: false}"
}

install_till() { # VALUES...
  say "Till, and PD and TiKV with it; this returns when every role is ready"
  # `--values -` reads those of ingress_values.
  [ "$INGRESS" != none ] || set -- "$@" --set ingress.enabled=false
  # A store made by --store-only becomes part of the release.
  helm_here upgrade --install "$RELEASE" "$CONFIG/till" --namespace "$NAMESPACE" --take-ownership \
    --wait --timeout 20m "$@" <<<"$(ingress_values)"
}

# Says how to reach the shop if this script installed no controller.
say_address() {
  [ "$INGRESS" != ours ] || return 0
  # Found by labels, because values may set other names, another port, or no ingress.
  local bridge=app.kubernetes.io/instance=$RELEASE,app.kubernetes.io/component=http-bridge ingress="" service port
  [ "$INGRESS" = none ] || ingress=$(kube get ingress --namespace "$NAMESPACE" --selector "$bridge" --output name) || ingress=""
  if [ -n "$ingress" ]; then
    say "done. The shop's address, by the ingress class $CLASS:"
    kube get ingress --namespace "$NAMESPACE" --selector "$bridge"
  else
    read -r service port <<<"$(kube get service --namespace "$NAMESPACE" --selector "$bridge" \
      --output 'jsonpath={range .items[*]}{.metadata.name} {.spec.ports[0].port}{"\n"}{end}')"
    say "done. The shop on http://localhost:8000:"
    echo "kubectl --context $CONTEXT --namespace $NAMESPACE port-forward" \
      "service/${service:-$RELEASE-http-bridge} 8000:${port:-80}"
  fi
}

# shellcheck disable=SC2034  # STORE_ONLY is for the scripts
parse() { # the script's own arguments
  STORE_ONLY=
  NO_INGRESS=
  for argument in "$@"; do
    case "$argument" in
      --store-only) STORE_ONLY=yes ;;
      --no-ingress) NO_INGRESS=yes ;;
      --help | -h) usage && exit 0 ;;
      *) usage >&2 && fail "unknown argument $argument" ;;
    esac
  done
  readonly STORE_ONLY NO_INGRESS
}
