#!/usr/bin/env bash
# Installs everything on minikube: the ingress addon unless there is another ingress controller, tidb-operator, one PD,
# one TiKV, and one of each role. It may be run again with the same flags; other values are reset.
set -euo pipefail
# With CDPATH set, cd may go elsewhere and print the path.
unset CDPATH

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly ROOT
readonly CONTEXT=${MINIKUBE_PROFILE:-minikube}
# shellcheck source=helm-config/deploy.sh
source "$ROOT/helm-config/deploy.sh"

usage() {
  cat <<TEXT
usage: deploy-charts-minikube.sh [--store-only | --no-ingress]

  --store-only   PD and TiKV with their policy, and nothing of ours: then kubectl apply -f k8s/ installs the rest
  --no-ingress   neither an ingress nor a controller for it

MINIKUBE_PROFILE: which minikube (default: minikube). NAMESPACE: where to (default: till).
IMAGE: an image that the cluster has or can fetch (default: built here, as till:0.2.0).
INGRESS_CLASS: of a controller that is there already (default: the addon's, or else the class nginx or the default
class).
TEXT
}

# True if minikube's own controller is on, whose configuration this script may change.
addon_is_on() {
  local addons
  addons=$(minikube --profile "$CONTEXT" addons list --output json) || return 1
  addons=${addons//[[:space:]]/}
  case "$addons" in *'"ingress":{'*) ;; *) return 1 ;; esac
  addons=${addons#*'"ingress":{'}
  case "${addons%%\}*}" in *'"Status":"enabled"'*) ;; *) return 1 ;; esac
}

main() {
  parse "$@"
  need kubectl https://kubernetes.io/docs/tasks/tools/
  need_helm
  need minikube https://minikube.sigs.k8s.io/docs/start/
  minikube --profile "$CONTEXT" status >/dev/null ||
    fail "minikube does not run: minikube start --profile $CONTEXT --cpus 4 --memory 8g"

  [ -n "$STORE_ONLY" ] || find_ingress addon_is_on
  install_tidb_operator
  make_namespace
  if [ -n "$STORE_ONLY" ]; then
    install_store --values "$CONFIG/till-minikube-values.yaml"
    exit 0
  fi

  if [ "$INGRESS" = ours ]; then
    say "the ingress addon, with a request id of its own for each client request"
    minikube --profile "$CONTEXT" addons enable ingress
    kube patch configmap ingress-nginx-controller --namespace ingress-nginx --type merge \
      --patch-file "$CONFIG/minikube-ingress-patch.yaml"
  fi

  local image=${IMAGE:-till:0.2.0}
  if [ -z "${IMAGE:-}" ]; then
    say "the image $image; minutes the first time"
    if command -v docker >/dev/null; then
      docker build --tag "$image" "$ROOT"
      minikube --profile "$CONTEXT" image load "$image"
    else
      minikube --profile "$CONTEXT" image build --tag "$image" "$ROOT"
    fi
  fi

  install_till --values "$CONFIG/till-minikube-values.yaml" --values - \
    --set "image.repository=${image%:*}" --set-string "image.tag=${image##*:}"

  say_address
  if [ "$INGRESS" = ours ]; then
    say "done. In another terminal:  minikube --profile $CONTEXT tunnel"
    echo "Then the shop is on http://localhost/ and its docs on http://localhost/docs"
  fi
  echo "One purchase, checked:  helm --kube-context $CONTEXT --namespace $NAMESPACE test $RELEASE --logs"
}

main "$@"
