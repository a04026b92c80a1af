package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// refusals lists the reasons for which a call may be refused, given that clients ask only for things that exist.
var refusals = map[string][]string{
	"subtract":     {"OUT_OF_STOCK"},
	"pay":          {"OUT_OF_CREDIT"},
	"pay_for":      {"OUT_OF_CREDIT", "ALREADY_PAID"},
	"cancel":       {"NOT_PAID"},
	"add_item":     {"ORDER_NOT_FOUND", "ALREADY_PAID"},
	"remove_item":  {"ORDER_NOT_FOUND", "ALREADY_PAID", "NOT_IN_ORDER"},
	"remove_order": {"ORDER_NOT_FOUND", "ALREADY_PAID"},
	"find_order":   {"ORDER_NOT_FOUND"},
	"checkout":     {"ORDER_NOT_FOUND", "EMPTY_ORDER", "OUT_OF_STOCK", "OUT_OF_CREDIT"},
	"sell":         {"OUT_OF_STOCK", "OUT_OF_CREDIT"},
	"misplan":      {"INVALID_ARGUMENT"},
}

// mayBeTold tells whether a call can get such an answer at all. An impossible answer is reported by itself, and is not
// judged again as a part of its object.
func mayBeTold(c *call) bool {
	if reason := c.refusal(); reason != "" {
		isTag := reason == "ORDER_MODIFIED" && c.Name == "checkout" && c.IfMatch != nil
		return isTag || slices.Contains(refusals[c.Name], reason)
	}
	return c.Name != "misplan" || c.Answer == nil
}

// isAsAsked tells whether a refusal that names an object and an amount names what the call asked for. The model of an
// order checks what the order wants.
func (h *history) isAsAsked(c *call) bool {
	if c.refusal() == "" || c.Answer.Of == nil || c.Name == "checkout" {
		return true
	}
	of, wanted := c.Item, c.Units
	switch {
	case c.Name == "sell" && c.refusal() == "OUT_OF_CREDIT":
		of, wanted = c.User, c.Units*h.World.Price
	case c.Name == "subtract":
		wanted = c.Amount
	case c.Name == "pay":
		of, wanted = c.User, c.Amount
	case c.Name == "pay_for":
		of, wanted = c.User, h.World.Payment
	}
	return *c.Answer.Of == of && *c.Answer.Wanted == wanted
}

// surprises are answers that no call can get, whatever else happened.
func (h *history) surprises() []string {
	var found []string
	for _, c := range h.Calls {
		if !mayBeTold(c) {
			found = append(found, fmt.Sprintf("no call can be told that: %v, at %d to %d", c, c.Began, c.ends()))
		} else if !h.isAsAsked(c) {
			found = append(found, fmt.Sprintf("nobody asked for that: %v, at %d to %d", c, c.Began, c.ends()))
		}
	}
	return found
}

// unfounded are refusals of checkouts for lack of something unnamed, although nothing that their order can have wanted
// can have been lacking while they were under way.
func (h *history) unfounded(timeout time.Duration) []string {
	var found []string
	for _, c := range h.Calls {
		lacking := c.refusal() == "OUT_OF_STOCK" || c.refusal() == "OUT_OF_CREDIT"
		if c.Name == "checkout" && lacking && c.Answer.Of == nil && !h.mayLack(c, timeout) {
			text := "order %s: nothing of it was lacking at %d to %d: %v"
			found = append(found, fmt.Sprintf(text, c.Order, c.Began, c.ends(), c))
		}
	}
	return found
}

func (h *history) mayLack(c *call, timeout time.Duration) bool {
	owner, isMade := h.owner(c.Order)
	var cost int64
	wants := map[pot]int64{}
	for item, units := range h.most(c.Order, c.Began, c.ends()) {
		cost += units * h.World.Price
		wants[pot{false, item}] = units
	}
	if c.refusal() == "OUT_OF_CREDIT" {
		wants = map[pot]int64{{true, owner}: cost}
	}
	for p, most := range wants {
		if !isMade || !h.isKnown(p) {
			return true
		}
		o := h.amounts(p)
		if porcupine.CheckOperationsTimeout(o.model, o.calls, timeout) == porcupine.Illegal {
			// That is reported by itself.
			return true
		}
		o.add(&deal{of: c.String(), lacks: max(most, 0)}, c.Began, c.ends())
		if porcupine.CheckOperationsTimeout(o.model, o.calls, timeout) != porcupine.Illegal {
			return true
		}
	}
	return false
}
