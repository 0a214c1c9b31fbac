package caches_test

import (
	"encoding/json"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
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

// Names of the package that users do not see are those that a reader keeps in mind.
// A noun with many of its own, and without the types of the package, is a package
// under internal.
func TestNamesAreFew(t *testing.T) {
	const most = 300
	files, _ := packageFiles(t, token.NewFileSet())
	var names []string
	note := func(id *ast.Ident) {
		if !id.IsExported() && id.Name != "_" {
			names = append(names, id.Name)
		}
	}
	for _, file := range files {
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil {
					note(decl.Name)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						note(spec.Name)
					case *ast.ValueSpec:
						for _, id := range spec.Names {
							note(id)
						}
					}
				}
			}
		}
	}
	assert.Contains(t, names, "query", "the names are found")
	assert.LessOrEqual(t, len(names), most)
}

// A function of more lines than fit a screen is two. Tests may be longer: they tell
// one story.
func TestFunctionsAreShort(t *testing.T) {
	const most = 50
	found := 0
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Body != nil {
				found++
				lines := set.Position(f.End()).Line - set.Position(f.Pos()).Line - 1
				assert.LessOrEqual(t, lines, most, "lines of %s in %s", f.Name, path)
			}
		}
		return nil
	})
	require.NoError(t, err)
	assert.Greater(t, found, 1000, "the functions are found")
}

// packageFiles returns the files of the package, and their names.
func packageFiles(t *testing.T, set *token.FileSet) (files []*ast.File, names []string) {
	t.Helper()
	all, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range all {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files, names = append(files, file), append(names, name)
	}
	return files, names
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
	files, names := packageFiles(t, set)
	uses := make(map[string]map[string]bool)
	for _, name := range names {
		uses[name] = make(map[string]bool)
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
