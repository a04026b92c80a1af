# shellcheck shell=bash
# What both deploy scripts do. Sourced by them; does nothing by itself.

# Pinned: a run of today and one of next year install the same.
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
  # What would not pass `restricted` (the store's pods) is only told.
  kube label namespace "$NAMESPACE" --overwrite pod-security.kubernetes.io/warn=restricted
}

install_store() { # VALUES...
  say "PD and TiKV alone"
  # Without --validate it would go by a version of Kubernetes that helm was built with.
  helm_here template "$RELEASE" "$CONFIG/till" "$@" --validate --show-only templates/tidb-cluster.yaml |
    kube apply --namespace "$NAMESPACE" --filename -
  say "waiting until TiKV is ready"
  kube wait --namespace "$NAMESPACE" --for=condition=Ready "tidbcluster/$RELEASE-store" --timeout=20m
}

install_till() { # VALUES...
  say "Till, and PD and TiKV with it; this returns when every role is ready"
  # A store that --store-only has made becomes part of the release.
  helm_here upgrade --install "$RELEASE" "$CONFIG/till" --namespace "$NAMESPACE" --take-ownership \
    --wait --timeout 20m "$@"
}

# shellcheck disable=SC2034  # STORE_ONLY is for the scripts
parse() { # the script's own arguments
  STORE_ONLY=
  for argument in "$@"; do
    case "$argument" in
      --store-only) STORE_ONLY=yes ;;
      --help | -h) usage && exit 0 ;;
      *) usage >&2 && fail "unknown argument $argument" ;;
    esac
  done
  readonly STORE_ONLY
}
