#!/usr/bin/env bash
# Installs everything on the cluster that kubectl points at: ingress-nginx, tidb-operator, 3 PD, 3 TiKV, and
# three of each role. May be run again at any time.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly ROOT
readonly INGRESS_NGINX=4.15.1

usage() {
  cat <<TEXT
usage: IMAGE=registry/till:tag deploy-charts-cluster.sh [--store-only]

  --store-only   PD and TiKV, and nothing of ours: then kubectl apply -f k8s/ installs the rest

IMAGE: what the nodes fetch; build and push it first (docs/deploy.md).
CONTEXT: which cluster (default: kubectl's current one). NAMESPACE: where to (default: till).
VALUES: a file of values of your own, over those of helm-config/till-cluster-values.yaml.
TEXT
}

main() {
  parse "$@"
  say "cluster $CONTEXT"
  install_tidb_operator
  make_namespace
  if [ -n "$STORE_ONLY" ]; then
    install_store --values "$CONFIG/till-cluster-values.yaml"
    exit 0
  fi
  [ -n "${IMAGE:-}" ] || fail "say which image the nodes fetch: IMAGE=registry.example.com/till:0.2.0"
  case "${IMAGE##*/}" in *:*) ;; *) fail "IMAGE needs a tag: $IMAGE:0.2.0" ;; esac

  say "ingress-nginx $INGRESS_NGINX"
  helm_here upgrade --install ingress-nginx ingress-nginx --repo https://kubernetes.github.io/ingress-nginx \
    --version "$INGRESS_NGINX" --namespace ingress-nginx --create-namespace \
    --values "$CONFIG/ingress-nginx-values.yaml" --wait --timeout 10m

  local own=()
  [ -z "${VALUES:-}" ] || own=(--values "$VALUES")
  install_till --values "$CONFIG/till-cluster-values.yaml" \
    --set "image.repository=${IMAGE%:*}" --set-string "image.tag=${IMAGE##*:}" ${own[@]+"${own[@]}"}

  say "done. The shop's address:"
  kube get service ingress-nginx-controller --namespace ingress-nginx
  echo "One purchase, checked:  helm --kube-context $CONTEXT --namespace $NAMESPACE test $RELEASE --logs"
}

command -v kubectl >/dev/null || {
  echo "error: kubectl is not installed: see https://kubernetes.io/docs/tasks/tools/" >&2
  exit 1
}
CONTEXT=${CONTEXT:-$(kubectl config current-context)}
readonly CONTEXT
# shellcheck source=helm-config/deploy.sh
source "$ROOT/helm-config/deploy.sh"
need helm https://helm.sh/docs/intro/install/

main "$@"
