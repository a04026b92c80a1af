package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

// The calls of these histories follow each other, unless they are moved.

func (c *call) is(a answer) *call   { c.Answer = &a; return c }
func (c *call) says(n int64) *call  { return c.is(answer{Is: "amount", Amount: n}) }
func (c *call) done() *call         { return c.is(answer{Is: "done"}) }
func (c *call) no(why string) *call { return c.is(answer{Is: "refused", Reason: why}) }
func (c *call) quiet() *call        { c.Quiet = true; return c }
func (c *call) ifMatch(tag string) *call {
	c.IfMatch = &tag
	return c
}

// lacks is refused, and told how much of what was wanted.
func (c *call) lacks(why string, wanted, of int64) *call {
	return c.is(answer{Is: "refused", Reason: why, Of: &of, Wanted: &wanted})
}

// at moves a call; it does not return if ended is 0.
func (c *call) at(began, ended int64) *call {
	c.Began = began
	if ended > 0 {
		c.Ended = &ended
	}
	return c
}

func create() *call {
	return (&call{Name: "create_order", User: 1}).is(answer{Is: "id", ID: "o"})
}
func add(item, units int64) *call {
	return &call{Name: "add_item", Order: "o", Item: item, Units: units}
}
func takeOff(item int64) *call { return &call{Name: "remove_item", Order: "o", Item: item} }
func remove() *call            { return &call{Name: "remove_order", Order: "o"} }
func checkout() *call          { return &call{Name: "checkout", Order: "o"} }
func ask() *call               { return &call{Name: "find_order", Order: "o"} }
func find(etag string, paid bool, lines ...[]int64) *call {
	return ask().is(answer{Is: "order", Lines: lines, Paid: paid, User: 1, ETag: etag})
}
func onItem(name string, n int64) *call { return &call{Name: name, Item: 1, Amount: n} }
func onUser(name string, n int64) *call { return &call{Name: name, User: 1, Amount: n} }
func sell(units int64) *call            { return &call{Name: "sell", User: 1, Item: 1, Units: units} }
func pays(name string) *call            { return &call{Name: name, User: 1, What: 7} }
func stands(is bool) *call              { return pays("find_payment").is(answer{Is: "payment", Stands: is}) }
func of(order string, c *call) *call    { c.Order = order; return c }
func initAll(name string, n int64) *call {
	return (&call{Name: name, Amount: n}).done()
}

type sample struct {
	name string
	// What is said of it; nothing if it is linearizable.
	says   string
	calls  []*call
	closed []final
}

func (s sample) history() *history {
	h := &history{Format: 1, World: world{Items: 4, Users: 4, Drawn: 2, Price: 2, Payment: 1}, Closed: s.closed}
	for at, c := range s.calls {
		if c.Began == 0 {
			c.at(int64(10*at+1), int64(10*at+9))
		}
		if c.Answer == nil {
			c.Ended = nil
		}
		h.Calls = append(h.Calls, c)
	}
	return h
}

func check(t *testing.T, samples []sample) {
	t.Helper()
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			h := s.history()
			for _, c := range h.Calls {
				if err := c.validate(); err != nil {
					t.Fatal(c, err)
				}
			}
			var said strings.Builder
			found := tally{out: &said, timeout: time.Minute}
			if err := found.judge("f", h); err != nil || found.unknown > 0 {
				t.Fatal(err, found)
			}
			if (found.violations > 0) != (s.says != "") || !strings.Contains(said.String(), s.says) {
				t.Fatalf("%d violations, %q, but not %q", found.violations, said.String(), s.says)
			}
		})
	}
}

const bad = "order o: not linearizable"

func TestAnOrderIsWhatWasDoneToIt(t *testing.T) {
	check(t, []sample{
		{"round", "", []*call{create(), add(1, 2).says(4), add(2, 1).says(6), takeOff(1).says(4), takeOff(2).done(),
			find("a", false, []int64{1, 1}), checkout().done(), find("b", true, []int64{1, 1})}, nil},
		{"found before", bad, []*call{find("a", false), create()}, nil},
		{"made twice", bad, []*call{create(), create()}, nil},
		{"cost", bad, []*call{create(), add(1, 2).says(4), add(2, 1).says(2)}, nil},
		{"cost after taking off", bad, []*call{create(), add(1, 2).says(4), takeOff(1).says(4)}, nil},
		{"lost line", bad, []*call{create(), add(1, 2).says(4), find("a", false)}, nil},
		{"units", bad, []*call{create(), add(1, 2).says(4), find("a", false, []int64{1, 1})}, nil},
		{"whose", bad, []*call{create(), ask().is(answer{Is: "order", User: 2, ETag: "a"})}, nil},
		{"paid by nobody", bad, []*call{create(), add(1, 1).says(2), find("a", true, []int64{1, 1})}, nil},
		{"not paid", bad,
			[]*call{create(), add(1, 1).says(2), checkout().done(), find("a", false, []int64{1, 1})}, nil},
		{"bought empty", bad, []*call{create(), checkout().done()}, nil},
		{"bought again", "", []*call{create(), add(1, 1).says(2), checkout().done(), checkout().done()}, nil},
		{"changed when paid", bad, []*call{create(), add(1, 1).says(2), checkout().done(), add(1, 1).says(4)}, nil},
		{"taken off when paid", bad, []*call{create(), add(1, 1).says(2), checkout().done(), takeOff(1).done()}, nil},
		{"removed when paid", bad, []*call{create(), add(1, 1).says(2), checkout().done(), remove().done()}, nil},
		{"removed", "", []*call{create(), remove().done(), ask().no("ORDER_NOT_FOUND")}, nil},
		{"found when removed", bad, []*call{create(), remove().done(), find("a", false)}, nil},
		{"removed twice", bad, []*call{create(), remove().done(), remove().done()}, nil},
		{"taken off before", bad, []*call{create(), takeOff(1).done()}, nil},
		{"drawn", "", []*call{initAll("init_orders", 0), of("1", ask()).is(
			answer{Is: "order", Lines: [][]int64{{0, 2}}, ETag: "a"})}, nil},
		{"drawn otherwise", "order 1: not linearizable", []*call{initAll("init_orders", 0), of("1", ask()).is(
			answer{Is: "order", Lines: [][]int64{{0, 1}}, ETag: "a"})}, nil},
		{"closed", "", []*call{create(), add(1, 1).says(2)}, []final{{"o", 1, [][]int64{{1, 1}}, false}}},
		{"closed otherwise", bad, []*call{create(), add(1, 1).says(2)}, []final{{"o", 1, [][]int64{{1, 2}}, false}}},
	})
}

func TestRefusalsOfAnOrderHaveAReason(t *testing.T) {
	full := func(calls ...*call) []*call { return append([]*call{create(), add(1, 2).says(4)}, calls...) }
	sold := func(calls ...*call) []*call { return append(full(checkout().done()), calls...) }
	check(t, []sample{
		{"not found", bad, full(ask().no("ORDER_NOT_FOUND")), nil},
		{"not found to sell", bad, full(checkout().no("ORDER_NOT_FOUND")), nil},
		{"empty", "", []*call{create(), checkout().no("EMPTY_ORDER")}, nil},
		{"not empty", bad, full(checkout().no("EMPTY_ORDER")), nil},
		{"empty when paid", bad, sold(checkout().no("EMPTY_ORDER")), nil},
		{"paid", "",
			sold(add(1, 1).no("ALREADY_PAID"), takeOff(1).no("ALREADY_PAID"), remove().no("ALREADY_PAID")), nil},
		{"not paid", bad, full(add(1, 1).no("ALREADY_PAID")), nil},
		{"paid when sold", "no call can be told that", sold(checkout().no("ALREADY_PAID")), nil},
		{"not in it", "", full(takeOff(2).no("NOT_IN_ORDER")), nil},
		{"in it", bad, full(takeOff(1).no("NOT_IN_ORDER")), nil},
		{"not in it when paid", bad, sold(takeOff(2).no("NOT_IN_ORDER")), nil},
		{"no stock", "", full(checkout().lacks("OUT_OF_STOCK", 2, 1)), nil},
		{"no stock when paid", bad, sold(checkout().no("OUT_OF_STOCK")), nil},
		{"no stock when empty", bad, []*call{create(), checkout().no("OUT_OF_STOCK")}, nil},
		{"no credit when empty", bad, []*call{create(), checkout().no("OUT_OF_CREDIT")}, nil},
		{"no stock of another item", bad, full(checkout().lacks("OUT_OF_STOCK", 2, 2)), nil},
		{"no stock for more", bad, full(checkout().lacks("OUT_OF_STOCK", 3, 1)), nil},
		{"no credit", "", full(checkout().lacks("OUT_OF_CREDIT", 4, 1)), nil},
		{"no credit when paid", bad, sold(checkout().no("OUT_OF_CREDIT")), nil},
		{"no credit of another user", bad, full(checkout().lacks("OUT_OF_CREDIT", 4, 2)), nil},
		{"no credit for more", bad, full(checkout().lacks("OUT_OF_CREDIT", 6, 1)), nil},
		{"modified without a tag", "no call can be told that", full(checkout().no("ORDER_MODIFIED")), nil},
		{"unknown item", "no call can be told that", full(add(2, 1).no("UNKNOWN_ITEM")), nil},
		{"unknown user", "no call can be told that", full(checkout().no("UNKNOWN_USER")), nil},
		{"misplanned", "",
			[]*call{{Name: "misplan", Units: 1, Answer: &answer{Is: "refused", Reason: "INVALID_ARGUMENT"}}}, nil},
		{"misplanned and done", "no call can be told that", []*call{(&call{Name: "misplan", Units: 1}).done()}, nil},
	})
}

func TestAnETagNamesOneContent(t *testing.T) {
	one := []int64{1, 1}
	seen := func(calls ...*call) []*call {
		return append([]*call{create(), add(1, 1).says(2), find("a", false, one)}, calls...)
	}
	andBack := func(calls ...*call) []*call {
		return append(seen(add(1, 1).says(4), takeOff(1).says(2)), calls...)
	}
	check(t, []sample{
		{"same", "", seen(find("a", false, one)), nil},
		{"two for one", bad, seen(find("b", false, one)), nil},
		{"one for two", bad, seen(add(1, 1).says(4), find("a", false, []int64{1, 2})), nil},
		{"back", "", andBack(find("b", false, one)), nil},
		{"the same when back", bad, andBack(find("a", false, one)), nil},
		{"the same when paid", bad, seen(checkout().done(), find("a", true, one)), nil},
		{"bought as seen", "", seen(checkout().ifMatch("a").done(), checkout().ifMatch("a").done()), nil},
		{"was bought as seen", "", seen(checkout().done(), checkout().ifMatch("a").done()), nil},
		{"as paid", "", seen(checkout().done(), find("b", true, one), checkout().ifMatch("b").done()), nil},
		{"refused as paid", bad,
			seen(checkout().done(), find("b", true, one), checkout().ifMatch("b").no("ORDER_MODIFIED")), nil},
		{"refused as sold", bad, seen(checkout().done(), checkout().ifMatch("a").no("ORDER_MODIFIED")), nil},
		{"refused as seen", bad, seen(checkout().ifMatch("a").no("ORDER_MODIFIED")), nil},
		{"changed", "", seen(add(1, 1).says(4), checkout().ifMatch("a").no("ORDER_MODIFIED")), nil},
		{"bought when changed", bad, seen(add(1, 1).says(4), checkout().ifMatch("a").done()), nil},
		{"bought when back", bad, andBack(checkout().ifMatch("a").done()), nil},
		{"sold as something else", "",
			seen(add(1, 1).says(4), checkout().done(), checkout().ifMatch("a").no("ORDER_MODIFIED")), nil},
		{"bought, sold as something else", bad,
			seen(add(1, 1).says(4), checkout().done(), checkout().ifMatch("a").done()), nil},
		{"short when changed", bad, seen(add(1, 1).says(4), checkout().ifMatch("a").no("OUT_OF_STOCK")), nil},
		{"poor when changed", bad, seen(add(1, 1).says(4), checkout().ifMatch("a").no("OUT_OF_CREDIT")), nil},
		{"empty when changed", bad, seen(takeOff(1).done(), checkout().ifMatch("a").no("EMPTY_ORDER")), nil},
		{"short as seen", "", seen(checkout().ifMatch("a").no("OUT_OF_STOCK")), nil},
		{"modified when removed", bad, seen(remove().done(), checkout().ifMatch("a").no("ORDER_MODIFIED")), nil},
	})
}

func TestAnUnknownOutcomeHappensLateOrNever(t *testing.T) {
	one, two := []int64{1, 1}, []int64{1, 2}
	begin := func(calls ...*call) []*call { return append([]*call{create(), add(1, 1).says(2), add(1, 1)}, calls...) }
	check(t, []sample{
		{"never", "", begin(find("a", false, one)), nil},
		{"at once", "", begin(find("a", false, two)), nil},
		{"late", "", begin(find("a", false, one), find("b", false, two)), nil},
		{"undone", bad, begin(find("a", false, two), find("b", false, one)), nil},
		{"twice", bad, begin(find("a", false, []int64{1, 3})), nil},
		{"before it began", bad, []*call{create(), find("a", false, one), add(1, 1)}, nil},
		{"when it cannot", "", begin(remove().done(), ask().no("ORDER_NOT_FOUND")), nil},
		{"bought late", "", begin(checkout(), find("a", false, one), find("b", true, one)), nil},
		{"together", "", []*call{create().at(1, 2), add(1, 1).says(4).at(3, 9), add(1, 1).says(2).at(4, 8)}, nil},
		{"not together", bad, []*call{create().at(1, 2), add(1, 1).says(4).at(3, 5), add(1, 1).says(2).at(6, 8)}, nil},
	})
}

func TestAmountsComeAndGo(t *testing.T) {
	item, user := "item 1: not linearizable", "user 1: not linearizable"
	stock := func(calls ...*call) []*call { return append([]*call{initAll("init_stock", 5)}, calls...) }
	credit := func(calls ...*call) []*call { return append([]*call{initAll("init_users", 5)}, calls...) }
	both := func(calls ...*call) []*call { return append(stock(initAll("init_users", 5)), calls...) }
	check(t, []sample{
		{"stock", "",
			stock(onItem("add_stock", 2).says(7), onItem("subtract", 3).says(4), onItem("find_item", 0).says(4),
				onItem("subtract", 5).no("OUT_OF_STOCK"), initAll("init_stock", 9),
				onItem("find_item", 0).says(9)), nil},
		{"stale", item, stock(onItem("add_stock", 2).says(7), onItem("find_item", 0).says(5)), nil},
		{"lost", item, stock(onItem("add_stock", 2).says(7), onItem("add_stock", 1).says(6)), nil},
		{"not less", item, stock(onItem("subtract", 2).says(5)), nil},
		{"too much", item, stock(onItem("subtract", 6).says(0)), nil},
		{"enough", item, stock(onItem("subtract", 5).no("OUT_OF_STOCK")), nil},
		{"not set", item, stock(initAll("init_stock", 9), onItem("find_item", 0).says(5)), nil},
		{"another amount", "nobody asked for that", stock(onItem("subtract", 6).lacks("OUT_OF_STOCK", 7, 1)), nil},
		{"the same amount", "", stock(onItem("subtract", 6).lacks("OUT_OF_STOCK", 6, 1)), nil},
		{"stock for credit", "no call can be told that", stock(onItem("subtract", 6).no("OUT_OF_CREDIT")), nil},
		{"perhaps", "", stock(onItem("subtract", 6), onItem("subtract", 2), onItem("find_item", 0).says(3)), nil},
		{"not as much", item, stock(onItem("subtract", 2), onItem("find_item", 0).says(4)), nil},
		{"credit", "", credit(onUser("add_funds", 2).says(7), onUser("pay", 3).says(4), onUser("find_user", 0).says(4),
			onUser("pay", 5).lacks("OUT_OF_CREDIT", 5, 1), pays("pay_for").says(3), pays("cancel").says(4)), nil},
		{"found too much", user, credit(onUser("pay", 3).says(2), onUser("find_user", 0).says(3)), nil},
		{"enough credit", user, credit(onUser("pay", 5).no("OUT_OF_CREDIT")), nil},
		{"enough for something", user, credit(pays("pay_for").no("OUT_OF_CREDIT")), nil},
		{"paid nothing", user, credit(pays("pay_for").says(5)), nil},
		{"given back nothing", user, credit(pays("pay_for").says(4), pays("cancel").says(4)), nil},
		{"sold", "",
			both(sell(2).done(), onItem("find_item", 0).quiet().says(3), onUser("find_user", 0).quiet().says(1)), nil},
		{"not sold", item, both(sell(2).done(), onItem("find_item", 0).quiet().says(5)), nil},
		{"not charged", user, both(sell(2).done(), onUser("find_user", 0).quiet().says(5)), nil},
		{"sold more", item, stock(initAll("init_users", 50), sell(6).done()), nil},
		{"too poor", user, both(sell(3).done()), nil},
		{"refused", "", both(sell(6).lacks("OUT_OF_STOCK", 6, 1), sell(3).lacks("OUT_OF_CREDIT", 6, 1)), nil},
		{"refused for nothing", item, both(sell(5).lacks("OUT_OF_STOCK", 5, 1)), nil},
		{"not refused for nothing", user, both(sell(2).lacks("OUT_OF_CREDIT", 4, 1)), nil},
		{"what is another's", "nobody asked for that", both(sell(6).lacks("OUT_OF_STOCK", 6, 2)), nil},
	})
}

func TestWhatIsHeldIsMissingForAWhile(t *testing.T) {
	during := func(name string, says int64, more ...*call) []*call {
		look := (&call{Name: name, Item: 1, User: 1}).says(says).at(40, 41)
		return append([]*call{initAll("init_stock", 9).at(1, 2), initAll("init_users", 20).at(3, 4), look}, more...)
	}
	check(t, []sample{
		{"held", "",
			during("find_item", 3, sell(2).no("OUT_OF_CREDIT").at(30, 50), onUser("pay", 17).says(3).at(6, 7)), nil},
		{"too much", "item 1", during("find_item", 0, sell(2).at(30, 0)), nil},
		{"sold and held", "", during("find_item", 1, sell(2).at(30, 0)), nil},
		{"by nobody", "item 1", during("find_item", 8), nil},
		{"by one who comes later", "item 1", during("find_item", 8, sell(2).at(42, 0)), nil},
		{"by a misplanned", "", during("find_item", 8, (&call{Name: "misplan", Item: 1, Units: 1}).at(30, 0)), nil},
		{"more than all", "item 1", during("find_item", 10, sell(2).at(30, 0)), nil},
		{"money", "", during("find_user", 8, sell(2).at(30, 0)), nil},
		{"no multiple", "user 1", during("find_user", 9, sell(2).at(30, 0)), nil},
		{"by an order", "",
			during("find_item", 3, create().at(10, 11), add(1, 2).says(4).at(12, 13), checkout().at(30, 0)), nil},
		{"nobody's order", "item 1",
			during("find_item", 3, create().at(10, 11), add(2, 2).says(4).at(12, 13), checkout().at(30, 0)), nil},
		{"money by an order", "", during("find_user", 8, create().at(10, 11), add(1, 2).says(4).at(12, 13),
			checkout().at(30, 0)), nil},
		{"money by another's order", "user 1", during("find_user", 8, (&call{Name: "create_order", User: 2}).is(
			answer{Is: "id", ID: "o"}).at(10, 11), add(1, 2).says(4).at(12, 13), checkout().at(30, 0)), nil},
		{"of another item", "item 1", during("find_item", 7,
			(&call{Name: "sell", User: 1, Item: 2, Units: 2}).at(30, 0)), nil},
		{"of another user", "user 1", during("find_user", 16,
			(&call{Name: "sell", User: 2, Item: 1, Units: 2}).at(30, 0)), nil},
		{"when quiet", "item 1",
			[]*call{initAll("init_stock", 9), sell(2), onItem("find_item", 0).quiet().says(8)}, nil},
	})
	refused := sell(2).no("OUT_OF_CREDIT").at(20, 25)
	calm := sample{calls: during("find_item", 7, refused, onUser("pay", 17).says(3).at(6, 7))}.history()
	for _, isCalm := range []bool{false, true} {
		calm.Calm = isCalm
		found := tally{out: io.Discard, timeout: time.Minute}
		if err := found.judge("f", calm); err != nil || (found.violations > 0) != isCalm {
			t.Fatal(isCalm, err, found)
		}
	}
	refused = sell(2).no("OUT_OF_CREDIT").at(20, 45)
	calm = sample{calls: during("find_item", 7, refused, onUser("pay", 17).says(3).at(6, 7))}.history()
	calm.Calm = true
	found := tally{out: io.Discard, timeout: time.Minute}
	if err := found.judge("f", calm); err != nil || found.violations > 0 {
		t.Fatal(err, found)
	}
}

func TestAPurchaseTakesUnitsAndMoneyOnce(t *testing.T) {
	lines := [][]int64{{1, 2}}
	bought := []final{{"o", 1, lines, true}}
	with := func(calls ...*call) []*call {
		begin := []*call{initAll("init_stock", 5), initAll("init_users", 6), create(), add(1, 2).says(4)}
		return append(begin, calls...)
	}
	stock := func(n int64) *call { return onItem("find_item", 0).quiet().says(n) }
	credit := func(n int64) *call { return onUser("find_user", 0).quiet().says(n) }
	drawn := []final{{"0", 0, [][]int64{{0, 2}}, true}}
	found := func(item, user int64) []*call {
		return []*call{(&call{Name: "find_item"}).quiet().says(item), (&call{Name: "find_user"}).quiet().says(user)}
	}
	draw := func(calls ...*call) []*call {
		return append([]*call{initAll("init_stock", 5), initAll("init_users", 6), initAll("init_orders", 0),
			of("0", checkout()).done()}, calls...)
	}
	check(t, []sample{
		{"once", "", with(checkout().done(), checkout().done(), stock(3), credit(2)), bought},
		{"no units", "item 1", with(checkout().done(), stock(5), credit(2)), bought},
		{"no money", "user 1", with(checkout().done(), stock(3), credit(6)), bought},
		{"units twice", "item 1", with(checkout().done(), checkout().done(), stock(1), credit(2)), bought},
		{"before its checkout", "item 1", with(stock(3), checkout().done()), bought},
		{"unknown, and paid", "", with(checkout(), stock(5), stock(3)), bought},
		{"seen as paid", "item 1", with(checkout(), find("a", true, lines[0]), stock(5)), bought},
		{"before a refusal", "item 1", with(checkout().done(), onItem("subtract", 3).no("OUT_OF_STOCK")), bought},
		{"before it is set", "", with(checkout().done(), initAll("init_stock", 4), stock(4)), bought},
		{"other lines", bad, with(checkout().done()), []final{{"o", 1, [][]int64{{1, 1}}, true}}},
		{"nothing lacks", "nothing of it was lacking", with(checkout().no("OUT_OF_STOCK")), nil},
		{"no credit lacks", "nothing of it was lacking", with(checkout().no("OUT_OF_CREDIT")), nil},
		{"something lacks", "",
			with(add(2, 4).says(12), onItem("subtract", 4).says(1), checkout().no("OUT_OF_STOCK")), nil},
		{"credit lacks", "", with(add(2, 2).says(8), checkout().no("OUT_OF_CREDIT")), nil},
		{"lacks no longer", "nothing of it was lacking",
			with(add(1, 4).says(12), takeOff(1).says(10), checkout().no("OUT_OF_STOCK")), nil},
		{"told, and does not lack", "item 1", with(checkout().lacks("OUT_OF_STOCK", 2, 1)), nil},
		{"drawn", "", draw(found(3, 2)...), drawn},
		{"drawn for nothing", "item 0", draw(found(5, 2)...), drawn},
		{"overwritten", "", draw(append(found(5, 2), initAll("init_orders", 0))...), nil},
		{"overwritten, and of what else", "item 1", draw(initAll("init_orders", 0), stock(4)), nil},
		{"overwritten, and whose else", "user 1", draw(initAll("init_orders", 0),
			of("1", add(1, 1)).says(6), credit(5)), nil},
		{"overwritten, and of another order", "item 1", draw(create(), add(1, 1).says(2), initAll("init_orders", 0),
			stock(4)), nil},
		{"overwritten with more", "", draw(of("1", add(1, 1)).says(6), initAll("init_orders", 0), stock(4)), nil},
		{"overwritten, and lacks", "", draw(initAll("init_orders", 0), of("1", checkout()).no("OUT_OF_STOCK")), nil},
		{"drawn, and nothing lacks", "nothing of it was lacking", draw(of("1", checkout()).no("OUT_OF_STOCK")), drawn},
		{"drawn, and credit lacks", "", draw(of("1", checkout()).no("OUT_OF_CREDIT")), drawn},
		{"no drawn one", "nothing of it was lacking", with((&call{Name: "subtract", Amount: 4}).says(1),
			checkout().no("OUT_OF_STOCK")), nil},
		{"of two items", "", with(add(2, 1).says(6), checkout().done(), stock(3), credit(0)),
			[]final{{"o", 1, [][]int64{{1, 2}, {2, 1}}, true}}},
		{"reads and makings without an answer", "", append([]*call{{Name: "create_order", User: 2}, of("o", ask())},
			with(ask(), checkout().done(), stock(3), pays("find_payment"), credit(2))...), bought},
		{"of nobody else", "", with(checkout().done(), (&call{Name: "find_user", User: 2}).quiet().says(6)), bought},
		{"not by a refused one", "item 1", with(onUser("pay", 3).says(3), checkout().no("OUT_OF_CREDIT"), stock(3),
			onUser("add_funds", 1).says(4), checkout().done()), bought},
		{"not yet seen as paid", "", with(checkout(), find("a", false, lines[0]), stock(5),
			find("b", true, lines[0]), stock(3)), bought},
		{"told that it is paid", "item 1", with(checkout(), add(1, 1).no("ALREADY_PAID"), stock(5)), bought},
		{"credit lacks alone", "", with(onUser("pay", 3).says(3), checkout().no("OUT_OF_CREDIT")), nil},
		{"lacks as it is taken off", "", []*call{initAll("init_stock", 1).at(1, 2), initAll("init_users", 9).at(3, 4),
			create().at(5, 6), add(1, 2).says(4).at(7, 8), checkout().no("OUT_OF_STOCK").at(9, 20),
			takeOff(1).says(2).at(10, 11)}, nil},
		{"none of it left", "nothing of it was lacking", with(add(2, 1).says(6), takeOff(2).says(4),
			checkout().no("OUT_OF_STOCK")), nil},
	})
}

func TestAPaymentStandsUntilItIsGivenBack(t *testing.T) {
	payment := "payment 1/7: not linearizable"
	paid := func(calls ...*call) []*call {
		return append([]*call{initAll("init_users", 9), pays("pay_for").says(8)}, calls...)
	}
	check(t, []sample{
		{"round", "", paid(stands(true), pays("pay_for").no("ALREADY_PAID"), pays("cancel").says(9), stands(false),
			pays("cancel").no("NOT_PAID"), pays("pay_for").says(8), initAll("init_users", 0), stands(false),
			pays("pay_for").no("OUT_OF_CREDIT")), nil},
		{"twice", payment, paid(pays("pay_for").says(7)), nil},
		{"given back twice", payment, paid(pays("cancel").says(9), pays("cancel").says(10)), nil},
		{"not seen", payment, paid(stands(false)), nil},
		{"seen when given back", payment, paid(pays("cancel").says(9), stands(true)), nil},
		{"paid already", payment, paid(pays("cancel").says(9), pays("pay_for").no("ALREADY_PAID")), nil},
		{"not paid", payment, paid(pays("cancel").no("NOT_PAID")), nil},
		{"overwritten", payment, paid(initAll("init_users", 1), stands(true)), nil},
		{"perhaps given back", "", paid(pays("cancel"), stands(true), stands(false)), nil},
		{"perhaps paid again", "", paid(pays("pay_for"), stands(true)), nil},
		{"perhaps not given back", "", paid(pays("cancel").says(9), pays("cancel"), stands(false)), nil},
		{"paid by nobody", payment, []*call{stands(true)}, nil},
		{"no credit when it stands", payment, paid(initAll("init_users", 1), pays("pay_for").says(0),
			pays("pay_for").no("OUT_OF_CREDIT")), nil},
		{"too late", "no call can be told that", paid(pays("cancel").no("OVERFLOW")), nil},
	})
}

func TestOrdersThatDifferInAnythingAreNotEqual(t *testing.T) {
	base := func() order {
		return order{exists: true, user: 1, lines: map[int64]int64{1: 2}, etag: "a", spent: []string{"b"}}
	}
	if !base().equal(base()) {
		t.Fatal("equal ones differ")
	}
	for at, change := range []func(*order){
		func(o *order) { o.exists = false }, func(o *order) { o.paid = true }, func(o *order) { o.user = 2 },
		func(o *order) { o.lines = map[int64]int64{1: 1} }, func(o *order) { o.etag = "" },
		func(o *order) { o.soldAs = "c" }, func(o *order) { o.spent = nil },
	} {
		other := base()
		change(&other)
		if base().equal(other) || other.equal(base()) {
			t.Error("equal in spite of change", at)
		}
	}
}
