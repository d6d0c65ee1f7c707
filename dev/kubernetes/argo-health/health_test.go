// Runs the health scripts of charts/camo-fleet/argo-cd as Argo CD runs them, over the objects beside them.
//
// The layout and health_test.yaml are those of resource_customizations in Argo CD, so that the folder can be copied there.
// How a script is run follows its util/lua/lua.go.
package health

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
	"sigs.k8s.io/yaml"
)

const (
	scripts = "../../../charts/camo-fleet/argo-cd"
	crds    = "../../../crds/yaml"
)

// What Argo CD takes from a script; any other status it shows as Unknown.
var statuses = []string{"Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown"}

type health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type healthTest struct {
	Tests []struct {
		InputPath    string `json:"inputPath"`
		HealthStatus health `json:"healthStatus"`
	} `json:"tests"`
}

// Every kind that the chart installs has a script.
func TestKinds(t *testing.T) {
	files := glob(t, crds, "*.yaml")
	for _, file := range files {
		var crd struct {
			Spec struct {
				Group string `json:"group"`
				Names struct {
					Kind string `json:"kind"`
				} `json:"names"`
			} `json:"spec"`
		}
		read(t, file, &crd)
		if script := filepath.Join(scripts, crd.Spec.Group, crd.Spec.Names.Kind, "health.lua"); !exists(script) {
			t.Errorf("%s has no %s", filepath.Base(file), script)
		}
	}
}

func TestHealth(t *testing.T) {
	for _, script := range glob(t, scripts, "*", "*", "health.lua") {
		folder := filepath.Dir(script)
		kind := filepath.Base(folder)
		source := text(t, script)
		var cases healthTest
		read(t, filepath.Join(folder, "health_test.yaml"), &cases)
		unlisted := glob(t, folder, "testdata", "*.yaml")
		for _, test := range cases.Tests {
			file := filepath.Join(folder, test.InputPath)
			unlisted = slices.DeleteFunc(unlisted, func(other string) bool { return other == file })
			t.Run(kind+"/"+filepath.Base(file), func(t *testing.T) {
				object := map[string]any{}
				read(t, file, &object)
				if object["kind"] != kind {
					t.Errorf("is a %v", object["kind"])
				}
				if found := run(t, string(source), object); found != test.HealthStatus {
					t.Errorf("is %+v\nshould be %+v", found, test.HealthStatus)
				}
			})
		}
		for _, file := range unlisted {
			t.Errorf("%s/health_test.yaml does not list %s", kind, filepath.Base(file))
		}
	}
}

// Another operator, or a person, may leave anything that the schema allows.
func TestHoles(t *testing.T) {
	for _, script := range glob(t, scripts, "*", "*", "health.lua") {
		for name, status := range map[string]any{
			"null status":        nil,
			"empty status":       map[string]any{},
			"no conditions":      map[string]any{"observedGeneration": 1.0},
			"null conditions":    map[string]any{"observedGeneration": 1.0, "conditions": nil},
			"empty conditions":   map[string]any{"observedGeneration": 1.0, "conditions": []any{}},
			"only another type":  map[string]any{"observedGeneration": 1.0, "conditions": []any{condition("New", "True")}},
			"only Ready unknown": map[string]any{"observedGeneration": 1.0, "conditions": []any{condition("Ready", "Unknown")}},
			"only Ready false":   map[string]any{"observedGeneration": 1.0, "conditions": []any{condition("Ready", "False")}},
		} {
			t.Run(filepath.Base(filepath.Dir(script))+"/"+name, func(t *testing.T) {
				object := map[string]any{"metadata": map[string]any{"generation": 1.0}, "status": status}
				if found := run(t, string(text(t, script)), object); found.Status != "Progressing" || found.Message == "" {
					t.Errorf("is %+v", found)
				}
			})
		}
	}
}

func condition(kind, status string) map[string]any {
	return map[string]any{"type": kind, "status": status, "reason": "Reason", "message": "words"}
}

// run gives a script what Argo CD gives those of argocd-cm: one second, the object as `obj`, and few libraries. Argo CD opens
// `package` and some of `os` as well, and all of them for scripts that it brings along; these need none.
func run(t *testing.T, script string, object map[string]any) health {
	t.Helper()
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name))
		if err != nil {
			t.Fatal(err)
		}
	}
	limited, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(limited)
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	table, is := state.Get(-1).(*lua.LTable)
	if !is {
		t.Fatalf("the script returns a %s, no table", state.Get(-1).Type())
	}
	found := health{Status: field(t, table, "status"), Message: field(t, table, "message")}
	if !slices.Contains(statuses, found.Status) {
		t.Fatalf("%q is no status that Argo CD knows", found.Status)
	}
	return found
}

// A null of the object is nil in Lua: there is no such key.
func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		list := state.NewTable()
		for _, item := range value {
			list.Append(toLua(state, item))
		}
		return list
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}

func field(t *testing.T, table *lua.LTable, key string) string {
	t.Helper()
	value, is := table.RawGetString(key).(lua.LString)
	if !is {
		t.Fatalf("%s is a %s, no string", key, table.RawGetString(key).Type())
	}
	return string(value)
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	if err := yaml.Unmarshal(text(t, file), into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func text(t *testing.T, file string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// glob finds at least one file: a test of nothing would pass.
func glob(t *testing.T, parts ...string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(parts...))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file %s: %v", filepath.Join(parts...), err)
	}
	return files
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
