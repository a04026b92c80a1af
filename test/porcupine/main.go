// Command till-porcupine checks with Porcupine whether the answers to a shop's clients are possible one call at a time.
// It reads histories as test/src/history/json.rs writes them, and shares no code and no model with the checker of the
// simulation: where the two disagree, one of them is wrong.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const usage = "usage: till-porcupine [--draw DIR] [--timeout 10s] FILE.json...|DIR..."

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns 0 if everything is linearizable, 1 if something is not, 2 if something cannot be read or written.
func run(args []string, out, complaints io.Writer) int {
	flags := flag.NewFlagSet("till-porcupine", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.Usage = func() { fmt.Fprintln(complaints, usage); flags.PrintDefaults() }
	draw := flags.String("draw", "", "write a page for each object that is not linearizable into `DIR`")
	timeout := flags.Duration("timeout", 10*time.Second, "longest that one object is looked at")
	if flags.Parse(args) != nil {
		return 2
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return 2
	}
	paths, err := files(flags.Args())
	histories := make([]*history, len(paths))
	for at := 0; err == nil && at < len(paths); at++ {
		histories[at], err = readFile(paths[at])
	}
	if err == nil && *draw != "" {
		err = os.MkdirAll(*draw, 0o777)
	}
	if err != nil {
		fmt.Fprintln(complaints, err)
		return 2
	}

	began := time.Now()
	t := &tally{out: out, draw: *draw, timeout: *timeout}
	for at, path := range paths {
		if err := t.judge(path, histories[at]); err != nil {
			fmt.Fprintln(complaints, err)
			return 2
		}
	}
	text := "%d files, %d objects: %d violations in %d files, %d unknown within %v; %.1f s\n"
	fmt.Fprintf(out, text, len(paths), t.objects, t.violations, t.bad, t.unknown, *timeout, time.Since(began).Seconds())
	if t.violations > 0 {
		return 1
	}
	return 0
}

// tally is what was found so far.
type tally struct {
	out                               io.Writer
	draw                              string
	timeout                           time.Duration
	objects, violations, bad, unknown int
}

// judge judges a history, and prints and counts its problems.
func (t *tally) judge(path string, h *history) error {
	before := t.violations
	say := func(what string) {
		t.violations++
		fmt.Fprintf(t.out, "%s: %s\n", path, what)
	}
	for _, o := range h.objects() {
		t.objects++
		switch porcupine.CheckOperationsTimeout(o.model, o.calls, t.timeout) {
		case porcupine.Unknown:
			t.unknown++
			fmt.Fprintf(t.out, "%s: %s: unknown within %v\n", path, o.name, t.timeout)
		case porcupine.Illegal:
			o.lanes()
			_, info := porcupine.CheckOperationsVerbose(o.model, o.calls, t.timeout)
			say(o.name + ": " + o.explain(info))
			if t.draw != "" {
				page := filepath.Join(t.draw, pageName(path, o.name))
				if err := porcupine.VisualizePath(o.model, info, page); err != nil {
					return err
				}
			}
		}
	}
	for _, what := range append(h.surprises(), h.unfounded(t.timeout)...) {
		say(what)
	}
	if t.violations > before {
		t.bad++
	}
	return nil
}

// pageName is a unique name for the page of an object of a file.
func pageName(path, object string) string {
	path = strings.TrimSuffix(filepath.ToSlash(filepath.Clean(path)), ".json")
	return strings.NewReplacer("/", "-", " ", "-").Replace(strings.Trim(path, "/.")+"-"+object) + ".html"
}

// lanes assigns each call to a client, so that no two calls of one client overlap in a drawing.
func (o *object) lanes() {
	slices.SortFunc(o.calls, func(one, other porcupine.Operation) int { return int(one.Call - other.Call) })
	var free []int64
	for at := range o.calls {
		lane := slices.IndexFunc(free, func(ended int64) bool { return ended < o.calls[at].Call })
		if lane < 0 {
			lane = len(free)
			free = append(free, 0)
		}
		free[lane] = o.calls[at].Return
		o.calls[at].ClientId = lane
	}
}

// explain describes the longest possible order of calls, where it ends, and which call is impossible there.
func (o *object) explain(info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, placed := range partition {
			if len(placed) > len(longest) {
				longest = placed
			}
		}
	}
	state := o.model.Init()
	placed := map[any]bool{}
	for _, c := range longest {
		_, state = o.model.Step(state, c.Input, c.Output)
		placed[c.Input] = true
	}
	// Of what is left, it is the first to return that nothing can come before.
	var next *porcupine.Operation
	for at := range o.calls {
		c := &o.calls[at]
		if !placed[c.Input] && (next == nil || c.Return < next.Return) {
			next = c
		}
	}
	if next == nil {
		return "not linearizable"
	}
	stands := fmt.Sprint(state)
	if o.model.DescribeState != nil {
		stands = o.model.DescribeState(state)
	}
	return fmt.Sprintf("not linearizable: %d of %d calls fit; then it is %s, and %s, at %d to %d, does not fit",
		len(longest), len(o.calls), stands, o.model.DescribeOperation(next.Input, nil), next.Call, next.Return)
}
