package main

import (
	"fmt"
	"sort"
	"strconv"

	"github.com/anishathalye/porcupine"
)

// object is one order, amount or payment, and everything that happened to it. Linearizability is local: a history is
// linearizable if every object's is.
type object struct {
	name  string
	model porcupine.Model
	calls []porcupine.Operation
}

// add adds what happened between two moments.
func (o *object) add(input any, began, ended int64) {
	o.calls = append(o.calls, porcupine.Operation{Input: input, Call: began, Return: ended})
}

// last is a moment after all others except forever.
func (h *history) last() int64 {
	var last int64
	for _, c := range h.Calls {
		last = max(last, c.Began)
		if c.Ended != nil {
			last = max(last, *c.Ended)
		}
	}
	return last + 1
}

func (h *history) isDrawn(id string) bool {
	number, err := strconv.ParseInt(id, 10, 64)
	return err == nil && number >= 0 && number < h.World.Drawn && strconv.FormatInt(number, 10) == id
}

// objects returns everything in a history that can be judged.
func (h *history) objects() []*object {
	objects := append(h.orders(), h.payments()...)
	for _, p := range h.pots() {
		objects = append(objects, h.amounts(p))
	}
	return objects
}

// orders returns the orders that occur in the history.
func (h *history) orders() []*object {
	byID := map[string]*object{}
	get := func(id string) *object {
		if byID[id] == nil {
			byID[id] = &object{name: "order " + id, model: orderModel(h.World)}
		}
		return byID[id]
	}
	for number := range h.World.Drawn {
		get(strconv.FormatInt(number, 10))
	}
	for _, c := range h.Calls {
		switch {
		case c.Name == "create_order" && c.Answer != nil && c.Answer.Is == "id":
			get(c.Answer.ID).add(c, c.Began, c.ends())
		case c.Name == "init_orders" && c.refusal() == "":
			for number := range h.World.Drawn {
				get(strconv.FormatInt(number, 10)).add(c, c.Began, c.ends())
			}
		case c.Name == "find_order" && c.Answer == nil:
		case c.Order != "" && mayBeTold(c):
			get(c.Order).add(c, c.Began, c.ends())
		}
	}
	for at := range h.Closed {
		get(h.Closed[at].Order).add(&h.Closed[at], h.last(), h.last()+1)
	}
	return sorted(byID)
}

// payments are what users paid for something by pay_for.
func (h *history) payments() []*object {
	byKey := map[string]*object{}
	users := map[*object]int64{}
	for _, c := range h.Calls {
		switch c.Name {
		case "pay_for", "cancel", "find_payment":
			key := fmt.Sprintf("%d/%d", c.User, c.What)
			if byKey[key] == nil {
				byKey[key] = &object{name: "payment " + key, model: paymentModel()}
				users[byKey[key]] = c.User
			}
			if mayBeTold(c) && (c.Name != "find_payment" || c.Answer != nil) {
				byKey[key].add(c, c.Began, c.ends())
			}
		}
	}
	for _, c := range h.Calls {
		for of, user := range users {
			if c.Name == "init_users" && c.refusal() == "" && user < h.World.Users {
				of.add(c, c.Began, c.ends())
			}
		}
	}
	return sorted(byKey)
}

func sorted(objects map[string]*object) []*object {
	var keys []string
	for key := range objects {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var all []*object
	for _, key := range keys {
		all = append(all, objects[key])
	}
	return all
}

// pot is an item or a user.
type pot struct {
	isUser bool
	id     int64
}

func (p pot) String() string {
	if p.isUser {
		return fmt.Sprintf("user %d", p.id)
	}
	return fmt.Sprintf("item %d", p.id)
}

// pots returns the items and users whose purchases are all known.
func (h *history) pots() []pot {
	var pots []pot
	for id := range h.World.Items {
		pots = append(pots, pot{false, id})
	}
	for id := range h.World.Users {
		pots = append(pots, pot{true, id})
	}
	var known []pot
	for _, p := range pots {
		if h.isKnown(p) {
			known = append(known, p)
		}
	}
	return known
}

// isKnown tells whether no order of this item or user can have been overwritten after it was paid.
func (h *history) isKnown(p pot) bool {
	draws, concerns := 0, p.id == 0
	for _, c := range h.Calls {
		if c.Name == "init_orders" {
			draws++
		}
		concerns = concerns || c.Name == "add_item" && h.isDrawn(c.Order) && !p.isUser && c.Item == p.id
	}
	return draws <= 1 || !concerns
}

// amounts is what happened to an item's units or a user's credit.
func (h *history) amounts(p pot) *object {
	o := &object{name: p.String(), model: amountModel()}
	for _, c := range h.Calls {
		if d := h.deal(p, c); d != nil {
			o.add(d, c.Began, c.ends())
		}
	}
	for at := range h.Closed {
		h.purchase(o, p, &h.Closed[at])
	}
	return o
}

// deal is what a call did to an item or a user; none if it did nothing.
func (h *history) deal(p pot, c *call) *deal {
	id, price := c.Item, int64(1)
	if p.isUser {
		id, price = c.User, h.World.Price
	}
	d := &deal{of: c.String(), lacks: -1, unsure: c.Answer == nil}
	switch c.Name {
	case "init_stock", "init_users":
		d.sets, d.amount, id = true, c.Amount, p.id
		if p.isUser != (c.Name == "init_users") {
			return nil
		}
	case "add_stock", "subtract", "find_item":
		if p.isUser {
			return nil
		}
		d.amount = map[string]int64{"add_stock": c.Amount, "subtract": -c.Amount}[c.Name]
	case "add_funds", "pay", "find_user", "pay_for", "cancel":
		if !p.isUser {
			return nil
		}
		d.amount = map[string]int64{
			"add_funds": c.Amount, "pay": -c.Amount, "pay_for": -h.World.Payment, "cancel": h.World.Payment,
		}[c.Name]
	case "sell":
		d.amount = -c.Units * price
	case "checkout":
		if c.refusal() == "" || c.Answer.Of == nil {
			return nil
		}
		id, d.amount = *c.Answer.Of, -*c.Answer.Wanted
	default:
		return nil
	}
	if id != p.id {
		return nil
	}
	if reason := c.refusal(); reason != "" {
		if reason != map[bool]string{false: "OUT_OF_STOCK", true: "OUT_OF_CREDIT"}[p.isUser] {
			return nil
		}
		d.lacks, d.amount = -d.amount, 0
	} else if c.Answer != nil && c.Answer.Is == "amount" {
		d.shown = &shown{available: c.Answer.Amount, held: h.held(p, c), unit: price}
	}
	return d
}

// purchase adds the purchase of an order by checkout, if there was one and it concerns an item or a user: at some
// moment between the begin of the first checkout that may have made it and the first answer that says that it is paid.
func (h *history) purchase(o *object, p pot, order *final) {
	var amount int64
	for _, line := range order.Lines {
		if !p.isUser && line[0] == p.id {
			amount += line[1]
		} else if p.isUser && order.User == p.id {
			amount += line[1] * h.World.Price
		}
	}
	began, ended := int64(forever), h.last()
	for _, c := range h.Calls {
		if c.Order != order.Order {
			continue
		}
		if c.Name == "checkout" && c.refusal() == "" {
			began, ended = min(began, c.Began), min(ended, c.ends())
		}
		if c.Name == "find_order" && c.Answer != nil && c.Answer.Paid || c.refusal() == "ALREADY_PAID" {
			ended = min(ended, c.ends())
		}
	}
	if order.Paid && amount > 0 && began < ended {
		bought := &deal{of: fmt.Sprintf("%d sold by order %s", amount, order.Order), amount: -amount, lacks: -1}
		o.add(bought, began, ended)
	}
}

// held is the most that unfinished calls can have held of something when a client was told of it.
func (h *history) held(p pot, told *call) int64 {
	if told.Quiet {
		return 0
	}
	attempts, price := int64(3), int64(1)
	if h.Calm {
		attempts = 1
	}
	if p.isUser {
		price = h.World.Price
	}
	var units int64
	for _, c := range h.Calls {
		isOver := h.Calm && c.ends() < told.Began
		if c.Began > told.ends() || isOver {
			continue
		}
		switch c.Name {
		case "checkout":
			owner, isMade := h.owner(c.Order)
			for item, most := range h.most(c.Order, 0, told.ends()) {
				if p.isUser && (!isMade || owner == p.id) || !p.isUser && item == p.id {
					units += most
				}
			}
		case "sell", "misplan":
			if p.isUser && c.User == p.id || !p.isUser && c.Item == p.id {
				units += c.Units
			}
		}
	}
	return attempts * units * price
}

// owner is the user of an order, as far as any client was told.
func (h *history) owner(id string) (int64, bool) {
	if h.isDrawn(id) {
		return 0, true
	}
	for _, c := range h.Calls {
		if c.Name == "create_order" && c.Answer != nil && c.Answer.ID == id {
			return c.User, true
		}
	}
	return 0, false
}

// most is the most units by item that an order can have had between two moments.
func (h *history) most(id string, from, to int64) map[int64]int64 {
	units := map[int64]int64{}
	if h.isDrawn(id) {
		units[0] = 2
	}
	for _, c := range h.Calls {
		switch {
		case c.Order != id || c.refusal() != "":
		case c.Name == "add_item" && c.Began < to:
			units[c.Item] += c.Units
		case c.Name == "remove_item" && c.ends() < from && !h.isDrawn(id):
			units[c.Item]--
		}
	}
	return units
}
