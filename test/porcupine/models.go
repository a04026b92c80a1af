package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// What one call at a time may do to an order, to an amount, and to a payment outside of checkouts, according to
// docs/rest.md.
//
// A call of unknown outcome returns after everything else, so it can always be put last, where nobody sees whether it
// did anything: that covers the case that it never happened. At any other place it takes effect if it can. So one step
// from each state is enough, and it never fails.

// order is one order, as its users see it. It is never changed, only replaced.
type order struct {
	exists, paid bool
	user         int64
	// Units by item.
	lines map[int64]int64
	// The ETag of what stands here, and the one as which it was sold; empty as long as nobody was told.
	etag, soldAs string
	// ETags of what stood here before, sorted.
	spent []string
}

// orderModel holds an order of this world by itself. Its input is a *call, or a *final for its state at the end.
func orderModel(w world) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return order{} },
		Step: func(state, input, _ any) (bool, any) {
			before := state.(order)
			switch asked := input.(type) {
			case *final:
				return before.is(asked.Lines, asked.Paid, asked.User), before
			case *call:
				after, can := before.step(w, asked)
				if !can && asked.Answer == nil {
					return true, before
				}
				return can, after
			}
			return false, before
		},
		Equal: func(one, other any) bool { return one.(order).equal(other.(order)) },
		DescribeOperation: func(input, _ any) string {
			return fmt.Sprint(input)
		},
		DescribeState: func(state any) string { return state.(order).String() },
	}
}

func (o order) equal(other order) bool {
	return o.exists == other.exists && o.paid == other.paid && o.user == other.user && o.etag == other.etag &&
		o.soldAs == other.soldAs && maps.Equal(o.lines, other.lines) && slices.Equal(o.spent, other.spent)
}

func (o order) String() string {
	if !o.exists {
		return "no order"
	}
	return fmt.Sprintf("%v of user %d, paid: %t, ETag %q, sold as %q", o.lines, o.user, o.paid, o.etag, o.soldAs)
}

func (o order) cost(w world) int64 {
	var sum int64
	for _, units := range o.lines {
		sum += units * w.Price
	}
	return sum
}

// is tells whether the order was seen as it is. The sequence of the lines does not matter, because docs/rest.md
// promises none.
func (o order) is(lines [][]int64, paid bool, user int64) bool {
	seen := map[int64]int64{}
	for _, line := range lines {
		seen[line[0]] += line[1]
	}
	return o.exists && o.paid == paid && o.user == user && maps.Equal(o.lines, seen)
}

// changed is the order with another content, which never has an earlier token again.
func (o order) changed() order {
	o.spent = slices.Clone(o.spent)
	for _, etag := range []string{o.etag, o.soldAs} {
		if etag != "" {
			o.spent = append(o.spent, etag)
		}
	}
	slices.Sort(o.spent)
	o.etag, o.soldAs = "", ""
	return o
}

// with is the order with this many units more, or fewer, of an item.
func (o order) with(item, units int64) order {
	o = o.changed()
	o.lines = maps.Clone(o.lines)
	if o.lines == nil {
		o.lines = map[int64]int64{}
	}
	o.lines[item] += units
	if o.lines[item] == 0 {
		delete(o.lines, item)
	}
	return o
}

// named is the order after it was read with this token.
func (o order) named(etag string) (order, bool) {
	if etag == "" || o.etag == "" && slices.Contains(o.spent, etag) || o.etag == "" && o.soldAs == etag {
		return o, false
	}
	if o.etag == "" {
		o.etag = etag
	}
	return o, o.etag == etag
}

// matches tells whether the order's content, or the content that was sold, is that of an If-Match. A client sends only
// tags that it was told before.
func (o order) matches(tag *string) bool {
	return tag == nil || *tag != "" && (*tag == o.etag || *tag == o.soldAs)
}

func (o order) step(w world, c *call) (order, bool) {
	if c.refusal() != "" {
		return o, o.refuses(w, c)
	}
	open := o.exists && !o.paid
	switch c.Name {
	case "create_order":
		after := o.changed()
		after.exists, after.user, after.lines = true, c.User, nil
		return after, !o.exists
	case "init_orders":
		after := o.changed()
		after.exists, after.paid, after.user, after.lines = true, false, 0, map[int64]int64{0: 2}
		return after, true
	case "add_item":
		after := o.with(c.Item, c.Units)
		return after, open && told(c, after.cost(w))
	case "remove_item":
		after := o.with(c.Item, -1)
		return after, open && o.lines[c.Item] > 0 && told(c, after.cost(w))
	case "remove_order":
		after := o.changed()
		after.exists, after.user, after.lines = false, 0, nil
		return after, open
	case "checkout":
		if o.paid || !open || len(o.lines) == 0 {
			return o, o.paid && o.matches(c.IfMatch)
		}
		after := o.changed()
		after.paid, after.soldAs = true, o.etag
		after.spent = o.spent
		return after, o.matches(c.IfMatch)
	case "find_order":
		if c.Answer == nil || !o.is(c.Answer.Lines, c.Answer.Paid, c.Answer.User) {
			return o, false
		}
		return o.named(c.Answer.ETag)
	}
	return o, false
}

// told tells whether an answer that names an amount names this one.
func told(c *call, amount int64) bool {
	return c.Answer == nil || c.Answer.Is != "amount" || c.Answer.Amount == amount
}

// refuses tells whether a call may be refused in the way that it was.
func (o order) refuses(w world, c *call) bool {
	open := o.exists && !o.paid
	switch c.refusal() {
	case "ORDER_NOT_FOUND":
		return !o.exists
	case "ALREADY_PAID":
		return o.paid
	case "NOT_IN_ORDER":
		return open && o.lines[c.Item] == 0
	case "EMPTY_ORDER":
		return open && len(o.lines) == 0 && o.matches(c.IfMatch)
	case "ORDER_MODIFIED":
		return o.exists && !o.matches(c.IfMatch)
	case "OUT_OF_STOCK":
		lacks := c.Answer.Of == nil || o.lines[*c.Answer.Of] == *c.Answer.Wanted
		return open && len(o.lines) > 0 && o.matches(c.IfMatch) && lacks
	case "OUT_OF_CREDIT":
		lacks := c.Answer.Of == nil || o.user == *c.Answer.Of && o.cost(w) == *c.Answer.Wanted
		return open && len(o.lines) > 0 && o.matches(c.IfMatch) && lacks
	}
	return false
}

// deal is what a call, or a purchase, does to the units of an item or the credit of a user. It counts everything that
// is not sold, including what unfinished calls hold.
type deal struct {
	// What it comes of, for people.
	of string
	// Whether all there was is overwritten by amount, or amount is added to it, below zero for taken.
	sets   bool
	amount int64
	// Refused: there is less than this. None is below 0.
	lacks int64
	// Nobody knows its outcome.
	unsure bool
	// What was shown afterwards, if anything was.
	shown *shown
}

// shown is the available amount that clients are told: everything, less what unfinished calls hold.
type shown struct {
	available int64
	// The most that they can have held, and the amount of which that is a multiple.
	held, unit int64
}

func (s *shown) fits(total int64) bool {
	held := total - s.available
	return held >= 0 && held <= s.held && held%s.unit == 0
}

// amountModel has an item's units or a user's credit as its state, and a *deal as its input.
func amountModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return int64(0) },
		Step: func(state, input, _ any) (bool, any) {
			total, d := state.(int64), input.(*deal)
			after := total + d.amount
			if d.sets {
				after = d.amount
			}
			if after < 0 {
				return d.unsure, total
			}
			return (d.lacks < 0 || total < d.lacks) && (d.shown == nil || d.shown.fits(after)), after
		},
		DescribeOperation: func(input, _ any) string { return input.(*deal).String() },
	}
}

func (d *deal) String() string {
	if d.shown == nil || d.shown.held == 0 {
		return d.of
	}
	return fmt.Sprintf("%s, with up to %d held", d.of, d.shown.held)
}

// paymentModel has as its state whether a payment outside of checkouts is in effect, and a *call as its input.
func paymentModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return false },
		Step: func(state, input, _ any) (bool, any) {
			stands, c := state.(bool), input.(*call)
			switch c.Name + " " + c.refusal() {
			case "pay_for ":
				return !stands || c.Answer == nil, true
			case "cancel ":
				return stands || c.Answer == nil, false
			case "init_users ":
				return true, false
			case "find_payment ":
				return c.Answer != nil && c.Answer.Stands == stands, stands
			case "pay_for ALREADY_PAID":
				return stands, stands
			case "pay_for OUT_OF_CREDIT", "cancel NOT_PAID":
				return !stands, stands
			}
			return false, stands
		},
		DescribeOperation: func(input, _ any) string { return fmt.Sprint(input) },
	}
}

func (f *final) String() string {
	return strings.TrimSpace(fmt.Sprintf("in the end %v of user %d, paid: %t", f.Lines, f.User, f.Paid))
}
