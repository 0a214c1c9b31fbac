package caches_test

import (
	"encoding/json"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Files of the package that use declarations of each other, over any number of
// others, cannot be read one after the other. These belong together; a new circle
// is a declaration in the wrong file.
func TestFilesFormNoCircle(t *testing.T) {
	together := [][]string{
		{"cached.go", "load.go"},
		{"dsn.go", "scheme.go"},
	}
	uses := fileUses(t)
	require.Contains(t, uses["value.go"], "object.go", "the graph has edges")
	for file := range uses {
		var circle []string
		for other := range uses {
			if other == file || reaches(uses, file, other) && reaches(uses, other, file) {
				circle = append(circle, other)
			}
		}
		if slices.Sort(circle); len(circle) > 1 {
			assert.Contains(t, together, circle)
		}
	}
}

// reaches reports whether from uses to, directly or over other files.
func reaches(uses map[string]map[string]bool, from, to string) bool {
	seen := map[string]bool{}
	var walk func(file string) bool
	walk = func(file string) bool {
		for next := range uses[file] {
			if next == to {
				return true
			}
			if !seen[next] {
				seen[next] = true
				if walk(next) {
					return true
				}
			}
		}
		return false
	}
	return walk(from)
}

// fileUses returns, for each file of the package, the files whose declarations
// it uses, fields apart.
func fileUses(t *testing.T) map[string]map[string]bool {
	t.Helper()
	exports := packageExports(t)
	set := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var files []*ast.File
	uses := make(map[string]map[string]bool)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files, uses[name] = append(files, file), make(map[string]bool)
	}
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	pkg, err := config.Check(module, set, files, info)
	require.NoError(t, err)
	for id, object := range info.Uses {
		if !declaration(pkg, object) {
			continue
		}
		from, to := set.Position(id.Pos()).Filename, set.Position(object.Pos()).Filename
		if from != to {
			uses[from][to] = true
		}
	}
	return uses
}

// declaration reports whether object is declared in a file of pkg, and is no
// field or local variable.
func declaration(pkg *types.Package, object types.Object) bool {
	if object.Pkg() != pkg {
		return false
	}
	switch object := object.(type) {
	case *types.Func:
		return true
	case *types.PkgName:
		return false
	case *types.TypeName:
		_, parameter := object.Type().(*types.TypeParam)
		return !parameter && object.Parent() == pkg.Scope()
	}
	return object.Parent() == pkg.Scope()
}

// packageExports returns the files of export data of all packages that this one
// needs.
func packageExports(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export", ".").Output()
	require.NoError(t, err)
	exports := make(map[string]string)
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p struct{ ImportPath, Export string }
		require.NoError(t, d.Decode(&p))
		exports[p.ImportPath] = p.Export
	}
	return exports
}
