#!/bin/sh
# Stands in for a tool of the deploy scripts under that tool's name: writes its arguments to $CALLS, and
# answers what a test has put into variables. minikube reports its profile's state and kubectl a context;
# neither changes anything. Values that helm is given by standard input are written down as well.
echo "${0##*/} $*" >>"$CALLS"
case "$*" in
  *current-context*) echo a-cluster ;;
  *ingressclasses*) printf '%b' "${CLASSES:-}" ;;
  *deployments,daemonsets*) printf '%b' "${CONTROLLERS:-}" ;;
  *'get values ingress-nginx'*) printf '%b' "${VALUES_THERE:-}" ;;
  *'get ingress '*) printf '%b' "${INGRESSES:-}" ;;
  *'get service --namespace'*) printf '%b' "${SERVICES:-}" ;;
  *'apply --namespace'*) printf '%b' "${APPLIED:-}" ;;
  *'addons list'*) printf '%b' "${ADDONS:-}" ;;
  *'--values - '*) while read -r line; do echo "$line" >>"$CALLS"; done ;;
  *version*) echo "${HELM_VERSION:-v3.22.0}" ;;
esac
