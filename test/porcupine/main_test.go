package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	head = `{"format": 1, "calm": false,
		"world": {"items": 4, "users": 4, "drawn": 2, "price": 2, "payment": 1}, "calls": [
		{"call": "create_order", "user": 1, "began": 1, "ended": 2, "quiet": false,
		"answer": {"is": "id", "id": "7b"}},`
	added = `{"call": "add_item", "order": "7b", "item": 1, "units": 2, "began": 4, "ended": 9, "quiet": false,
		"answer": {"is": "amount", "amount": 4}},
		{"call": "init_stock", "amount": 4, "began": 10, "ended": 11, "quiet": false, "answer": {"is": "done"}},
		{"call": "init_users", "amount": 4, "began": 12, "ended": 13, "quiet": false, "answer": {"is": "done"}},
		{"call": "checkout", "order": "7b", "began": 14, "quiet": false}],`
	tail = `"closed": [{"order": "7b", "user": 1, "lines": [[1, 2]], "paid": true}]}`
)

var (
	fine   = head + added + tail
	wrong  = head + strings.Replace(added, `"amount": 4`, `"amount": 2`, 1) + tail
	broken = head
)

func write(t *testing.T, texts ...string) []string {
	t.Helper()
	var paths []string
	for at, text := range texts {
		path := filepath.Join(t.TempDir(), string(rune('a'+at))+".json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func TestWhatIsFoundIsSaidAndIsTheExitCode(t *testing.T) {
	here := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{write(t, fine), 0, "1 files, 11 objects: 0 violations in 0 files, 0 unknown within 10s"},
		{write(t, fine, wrong), 1, "order 7b: not linearizable: 1 of 4 calls fit; then it is map[] of user 1"},
		{[]string{filepath.Dir(write(t, wrong)[0])}, 1, "1 violations in 1 files"},
		{write(t, wrong, broken), 2, "unexpected EOF"},
		{[]string{"--timeout", "3s", write(t, fine)[0]}, 0, "0 unknown within 3s"},
		{[]string{filepath.Join(here, "nothing.json")}, 2, "no such file"},
		{[]string{here}, 2, "no history"},
		{[]string{"--nothing", here}, 2, usage},
		{nil, 2, usage},
	} {
		var said strings.Builder
		if code := run(c.args, &said, &said); code != c.code || !strings.Contains(said.String(), c.says) {
			t.Errorf("%v: %d instead of %d: %s", c.args, code, c.code, said.String())
		}
	}
}

func TestWhatTakesTooLongIsUnknownAndNoViolation(t *testing.T) {
	var said strings.Builder
	// Whoever orders these looks at every subset of them.
	calls := []*call{create()}
	for range 40 {
		calls = append(calls, add(1, 1))
	}
	for item := range int64(40) {
		calls = append(calls, add(item, 1))
	}
	calls = append(calls, find("a", false, []int64{50, 1}))
	h := sample{calls: calls}.history()
	found := tally{out: &said, timeout: 1_000_000}
	if err := found.judge("f", h); err != nil || found.violations > 0 || found.unknown != 1 {
		t.Fatal(err, found)
	}
	if !strings.Contains(said.String(), "order o: unknown within 1ms") {
		t.Fatal(said.String())
	}
}

func TestEachViolationIsDrawn(t *testing.T) {
	paths, to := write(t, fine, wrong), filepath.Join(t.TempDir(), "new")
	var said strings.Builder
	if code := run(append([]string{"--draw", to}, paths...), &said, &said); code != 1 {
		t.Fatal(code, said.String())
	}
	pages, err := filepath.Glob(filepath.Join(to, "*-order-7b.html"))
	if err != nil || len(pages) != 1 {
		t.Fatal(pages, err)
	}
	page, err := os.ReadFile(pages[0])
	if err != nil || !strings.Contains(string(page), "checkout -\\u003e ?") {
		t.Fatal("nothing of the history is in the page", err)
	}
}

func TestNothingUnknownIsRead(t *testing.T) {
	if _, err := read([]byte(fine)); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][]string{
		{`"format": 1`, `"format": 2`},
		{`"format": 1`, `"format": 1, "more": 1`},
		{`"units": 2`, `"units": 2, "weight": 2`},
		{`"call": "add_item"`, `"call": "add_thing"`},
		{`"is": "amount", "amount": 4`, `"is": "id", "id": "7b"`},
		{`"is": "amount", "amount": 4`, `"is": "refused"`},
		{`"is": "amount", "amount": 4`, `"is": "refused", "reason": "OUT_OF_STOCK", "of": 1`},
		{`"ended": 9`, `"ended": 3`},
		{`"ended": 9, `, ``},
		{`[[1, 2]]`, `[[1]]`},
		{`"price": 2`, `"price": 0`},
		{`"paid": true}]}`, `"paid": true}]} {}`},
	} {
		text := strings.Replace(fine, change[0], change[1], 1)
		if _, err := read([]byte(text)); text == fine || err == nil {
			t.Errorf("read with %s", change[1])
		}
	}
}
