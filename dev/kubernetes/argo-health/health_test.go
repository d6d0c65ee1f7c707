// Runs the health scripts in charts/camo-fleet/argo-cd as Argo CD runs them, on the objects in their testdata.
//
// The layout and the format of health_test.yaml are those of resource_customizations in Argo CD, so that the folder can
// be copied there. The execution of scripts follows Argo CD's util/lua/lua.go.
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

// The statuses that Argo CD accepts from a script. It shows any other status as Unknown.
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

// Every kind that the chart installs must have a script.
func TestEveryKindHasAScript(t *testing.T) {
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

func TestScriptsReturnTheExpectedHealth(t *testing.T) {
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
					t.Errorf("kind is %v", object["kind"])
				}
				if found := run(t, string(source), object); found != test.HealthStatus {
					t.Errorf("got  %+v\nwant %+v", found, test.HealthStatus)
				}
			})
		}
		for _, file := range unlisted {
			t.Errorf("%s/health_test.yaml does not list %s", kind, filepath.Base(file))
		}
	}
}

// A script must handle every status that the schema allows, because users and other controllers can write one.
func TestIncompleteStatusIsProgressing(t *testing.T) {
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
					t.Errorf("got %+v, want Progressing with a message", found)
				}
			})
		}
	}
}

func condition(kind, status string) map[string]any {
	return map[string]any{"type": kind, "status": status, "reason": "Reason", "message": "words"}
}

// run executes a script under the limits that Argo CD sets for those of argocd-cm: one second, the object as `obj`, and
// few libraries. Argo CD also opens `package` and part of `os`, and all libraries for its built-in scripts. These
// scripts need none of them.
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
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the script returned a %s instead of a table", state.Get(-1).Type())
	}
	found := health{Status: field(t, table, "status"), Message: field(t, table, "message")}
	if !slices.Contains(statuses, found.Status) {
		t.Fatalf("Argo CD does not know the status %q", found.Status)
	}
	return found
}

// toLua converts null to nil, so that the key does not exist in Lua.
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
	value, ok := table.RawGetString(key).(lua.LString)
	if !ok {
		t.Fatalf("%s is a %s instead of a string", key, table.RawGetString(key).Type())
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

// glob fails without a match, because a test without files would pass.
func glob(t *testing.T, parts ...string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(parts...))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file matches %s: %v", filepath.Join(parts...), err)
	}
	return files
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
