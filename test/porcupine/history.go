package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// forever is when a call of unknown outcome returns: after everything else.
const forever = math.MaxInt64

// history is the calls of a shop's clients and their answers, in format 1 of test/src/history/json.rs.
type history struct {
	Format int     `json:"format"`
	Calm   bool    `json:"calm"`
	World  world   `json:"world"`
	Calls  []*call `json:"calls"`
	Closed []final `json:"closed"`
}

// world has the amounts that calls do not name themselves.
type world struct {
	Items   int64 `json:"items"`
	Users   int64 `json:"users"`
	Drawn   int64 `json:"drawn"`
	Price   int64 `json:"price"`
	Payment int64 `json:"payment"`
}

// call is one call of a client, including its repetitions.
type call struct {
	Name    string  `json:"call"`
	Order   string  `json:"order"`
	Item    int64   `json:"item"`
	User    int64   `json:"user"`
	Units   int64   `json:"units"`
	Amount  int64   `json:"amount"`
	What    int64   `json:"what"`
	IfMatch *string `json:"if_match"`
	Began   int64   `json:"began"`
	Ended   *int64  `json:"ended"`
	Quiet   bool    `json:"quiet"`
	Answer  *answer `json:"answer"`
}

// answer is the answer to a call.
type answer struct {
	Is     string    `json:"is"`
	Amount int64     `json:"amount"`
	ID     string    `json:"id"`
	Stands bool      `json:"stands"`
	Lines  [][]int64 `json:"lines"`
	Paid   bool      `json:"paid"`
	User   int64     `json:"user"`
	ETag   string    `json:"etag"`
	Reason string    `json:"reason"`
	Of     *int64    `json:"of"`
	Wanted *int64    `json:"wanted"`
}

// final is an order as it was at the end.
type final struct {
	Order string    `json:"order"`
	User  int64     `json:"user"`
	Lines [][]int64 `json:"lines"`
	Paid  bool      `json:"paid"`
}

// answers lists the answers that a call may get, other than a refusal.
var answers = map[string][]string{
	"add_stock": {"amount"}, "subtract": {"amount"}, "find_item": {"amount"},
	"add_funds": {"amount"}, "pay": {"amount"}, "find_user": {"amount"},
	"pay_for": {"amount"}, "cancel": {"amount"}, "find_payment": {"payment"},
	"create_order": {"id"}, "add_item": {"amount"}, "remove_item": {"amount", "done"}, "remove_order": {"done"},
	"find_order": {"order"}, "checkout": {"done"}, "sell": {"done"}, "misplan": {"done"},
	"init_stock": {"done"}, "init_users": {"done"}, "init_orders": {"done"},
}

// read reads a history, and refuses one with anything that this checker does not know.
func read(text []byte) (*history, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	h := new(history)
	if err := decoder.Decode(h); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one history")
	}
	if h.Format != 1 {
		return nil, fmt.Errorf("format %d is not 1", h.Format)
	}
	if h.World.Price < 1 || h.World.Items < 1 || h.World.Users < 1 || len(h.Calls) == 0 {
		return nil, errors.New("an empty world, or nothing was asked")
	}
	for at, c := range h.Calls {
		if err := c.validate(); err != nil {
			return nil, fmt.Errorf("call %d: %w", at, err)
		}
	}
	for _, f := range h.Closed {
		if err := validateLines(f.Lines); err != nil {
			return nil, fmt.Errorf("closed order %s: %w", f.Order, err)
		}
	}
	return h, nil
}

func (c *call) validate() error {
	kinds, isKnown := answers[c.Name]
	switch {
	case !isKnown:
		return fmt.Errorf("there is no call %q", c.Name)
	case (c.Ended == nil) != (c.Answer == nil):
		return errors.New("an end without an answer, or an answer without an end")
	case c.Answer == nil:
		return nil
	case *c.Ended <= c.Began:
		return errors.New("it ended before it began")
	case c.Answer.Is == "refused" && c.Answer.Reason == "":
		return errors.New("refused without a reason")
	case (c.Answer.Of == nil) != (c.Answer.Wanted == nil):
		return errors.New("what was wanted, but not of what, or the other way around")
	case c.Answer.Is != "refused" && !slices.Contains(kinds, c.Answer.Is):
		return fmt.Errorf("%s cannot be told %q", c.Name, c.Answer.Is)
	}
	return validateLines(c.Answer.Lines)
}

func validateLines(lines [][]int64) error {
	for _, line := range lines {
		if len(line) != 2 || line[1] < 1 {
			return fmt.Errorf("%v is no item and its units", line)
		}
	}
	return nil
}

// ends is when the call returned.
func (c *call) ends() int64 {
	if c.Ended == nil {
		return forever
	}
	return *c.Ended
}

// refusal is the reason of a refusal, or empty.
func (c *call) refusal() string {
	if c.Answer != nil && c.Answer.Is == "refused" {
		return c.Answer.Reason
	}
	return ""
}

func (c *call) String() string {
	var text strings.Builder
	text.WriteString(c.Name)
	switch c.Name {
	case "add_item":
		fmt.Fprintf(&text, "(%d of item %d)", c.Units, c.Item)
	case "remove_item":
		fmt.Fprintf(&text, "(item %d)", c.Item)
	case "sell", "misplan":
		fmt.Fprintf(&text, "(%d of item %d to user %d)", c.Units, c.Item, c.User)
	case "add_stock", "subtract", "add_funds", "pay", "init_stock", "init_users":
		fmt.Fprintf(&text, "(%d)", c.Amount)
	case "checkout":
		if c.IfMatch != nil {
			fmt.Fprintf(&text, "(if %s)", *c.IfMatch)
		}
	}
	return text.String() + " -> " + c.Answer.String()
}

func (a *answer) String() string {
	switch {
	case a == nil:
		return "?"
	case a.Is == "amount":
		return fmt.Sprint(a.Amount)
	case a.Is == "payment":
		return fmt.Sprintf("stands: %t", a.Stands)
	case a.Is == "order":
		return fmt.Sprintf("%v of user %d, paid: %t, %s", a.Lines, a.User, a.Paid, a.ETag)
	case a.Is == "refused" && a.Of != nil:
		return fmt.Sprintf("%s (%d of %d)", a.Reason, *a.Wanted, *a.Of)
	case a.Is == "refused":
		return a.Reason
	}
	return a.Is
}

// files returns the named files, and all *.json files below the named directories.
func files(names []string) ([]string, error) {
	var found []string
	for _, name := range names {
		before := len(found)
		err := filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && (path == name || filepath.Ext(path) == ".json") {
				found = append(found, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(found) == before {
			return nil, fmt.Errorf("%s: no history", name)
		}
	}
	sort.Strings(found)
	return slices.Compact(found), nil
}

func readFile(path string) (*history, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	h, err := read(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}
