#!/bin/sh
# Buys two units of five at 7 for a user with 20, twice; the second time must charge nothing. SHOP: address of the
# bridge. KEYS: its API keys, one per line, if it has any. `helm test` runs this first.
set -eu

key=$(echo "${KEYS:-}" | head -n 1)

call() { # METHOD PATH
  curl --silent --show-error --fail-with-body --max-time 40 ${key:+--header "Authorization: Bearer $key"} \
    --request "$1" "$SHOP$2"
}

new() { # PATH, whose answer is {"some_id":"..."}: prints that id
  made=$(call POST "$1") && echo "$made" | sed 's/.*: *"\([^"]*\)".*/\1/'
}

expect() { # WHAT FOUND PART
  case "$2" in
    *"$3"*) echo "ok: $1" ;;
    *) echo "FAILED: $1: no $3 in $2" && exit 1 ;;
  esac
}

user=$(new /payment/create_user)
call POST "/payment/add_funds/$user/20" && echo
item=$(new /stock/item/create/7)
call POST "/stock/add/$item/5" && echo
order=$(new "/orders/create/$user")
call POST "/orders/addItem/$order/$item/2" && echo

call POST "/orders/checkout/$order" && echo
call POST "/orders/checkout/$order" && echo

expect "the order is paid" "$(call GET "/orders/find/$order" | tr -d ' ')" '"paid":true'
expect "two units are gone" "$(call GET "/stock/find/$item" | tr -d ' ')" '"stock":3'
expect "14 was charged, once" "$(call GET "/payment/find_user/$user" | tr -d ' ')" '"credit":6'
