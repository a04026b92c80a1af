#!/usr/bin/env bash
# Installs everything on the cluster that kubectl points at: tidb-operator, 3 PD, 3 TiKV, three of each role, and
# ingress-nginx if the cluster has no ingress controller. It may be run again with the same IMAGE, VALUES and flags;
# values that are not given again are reset.
set -euo pipefail
# With CDPATH set, cd may go elsewhere and print the path.
unset CDPATH

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly ROOT
# Upstream makes no further releases (docs/deploy.md).
readonly INGRESS_NGINX=4.15.1

usage() {
  cat <<TEXT
usage: IMAGE=registry/till:tag deploy-charts-cluster.sh [--store-only | --no-ingress]

  --store-only   PD and TiKV with their policy, and nothing of ours: then kubectl apply -f k8s/ installs the rest
  --no-ingress   neither an ingress nor a controller for it

IMAGE: what the nodes fetch; build and push it first (docs/deploy.md).
CONTEXT: which cluster (default: kubectl's current one). NAMESPACE: where to (default: till).
INGRESS_CLASS: of a controller that the cluster has (default: its class nginx, or its default class; where there is
no class and no controller, ingress-nginx is installed).
VALUES: a file of values of your own, over those of helm-config/till-cluster-values.yaml.
TEXT
}

# True if the release has the values that this script sets.
ingress_is_ours() {
  local values
  values=$(helm_here get values ingress-nginx --namespace ingress-nginx 2>/dev/null) || return 1
  # shellcheck disable=SC2016  # nginx's variable
  case "$values" in *'X-Request-Id: $request_id'*) ;; *) return 1 ;; esac
}

main() {
  say "cluster $CONTEXT"
  [ -z "${VALUES:-}" ] || [ -r "$VALUES" ] || fail "VALUES: cannot read $VALUES"
  if [ -z "$STORE_ONLY" ]; then
    [ -n "${IMAGE:-}" ] || fail "say which image the nodes fetch: IMAGE=registry.example.com/till:0.2.0"
    case "${IMAGE##*/}" in *:*) ;; *) fail "IMAGE needs a tag: $IMAGE:0.2.0" ;; esac
    find_ingress ingress_is_ours
  fi
  local own=()
  [ -z "${VALUES:-}" ] || own=(--values "$VALUES")
  install_tidb_operator
  make_namespace
  if [ -n "$STORE_ONLY" ]; then
    install_store --values "$CONFIG/till-cluster-values.yaml" ${own[@]+"${own[@]}"}
    exit 0
  fi

  if [ "$INGRESS" = ours ]; then
    say "ingress-nginx $INGRESS_NGINX"
    helm_here upgrade --install ingress-nginx ingress-nginx --repo https://kubernetes.github.io/ingress-nginx \
      --version "$INGRESS_NGINX" --namespace ingress-nginx --create-namespace \
      --values "$CONFIG/ingress-nginx-values.yaml" --wait --timeout 10m
  fi

  install_till --values "$CONFIG/till-cluster-values.yaml" --values - \
    --set "image.repository=${IMAGE%:*}" --set-string "image.tag=${IMAGE##*:}" ${own[@]+"${own[@]}"}

  say_address
  if [ "$INGRESS" = ours ]; then
    say "done. The shop's address:"
    kube get service ingress-nginx-controller --namespace ingress-nginx
  fi
  echo "One purchase, checked:  helm --kube-context $CONTEXT --namespace $NAMESPACE test $RELEASE --logs"
}

# shellcheck source=helm-config/deploy.sh
source "$ROOT/helm-config/deploy.sh"
parse "$@"
need kubectl https://kubernetes.io/docs/tasks/tools/
need_helm
CONTEXT=${CONTEXT:-$(kubectl config current-context)}
readonly CONTEXT

main
