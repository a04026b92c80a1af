// Compose reads compose files as `docker compose` does, every profile on, and writes the project as JSON:
// the same library, so what it accepts is what people's Docker accepts. It needs no Docker.
//
// Usage: compose [-env-file FILE] COMPOSE_FILE...
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	envFile := flag.String("env-file", "", "values for what the files leave open")
	flag.Parse()
	project, err := read(flag.Args(), *envFile)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(project)
}

func read(files []string, envFile string) ([]byte, error) {
	options := []cli.ProjectOptionsFn{cli.WithProfiles([]string{"*"})}
	if envFile != "" {
		options = append(options, cli.WithEnvFiles(envFile), cli.WithDotEnv)
	}
	wanted, err := cli.NewProjectOptions(files, options...)
	if err != nil {
		return nil, err
	}
	project, err := wanted.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(project, "", "  ")
}
