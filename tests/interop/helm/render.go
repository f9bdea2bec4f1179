// Renders a chart as `helm template` does, for machines that have no Helm: Helm's engine is Go's text/template with sprig's functions and a few
// more, and this has those of them that the chart may use; a template that uses another does not parse. The YAML and JSON Schema
// libraries are the ones that Helm uses, or what those come from.
//
// It differs in what it leaves out: no .Files, tpl, conditions and aliases of dependencies, .helmignore, order of kinds, or anything of a cluster.
// Dependencies are those at file:// alone, and `null` takes none of their defaults away.
//
//	render [-release NAME] [-namespace NAME] [-kube VERSION] [-notes] [-f VALUES]… CHART
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/semver"
	"github.com/Masterminds/sprig"
	"github.com/ghodss/yaml"
	"github.com/xeipuuv/gojsonschema"
)

// Named as in Helm, where functions that take a plain map do not take it.
type values map[string]interface{}

type metadata struct {
	Name, Version, AppVersion, KubeVersion, Type, Description string
	Dependencies                                              []struct{ Name, Version, Repository string }
}

type chart struct {
	metadata metadata
	values   map[string]interface{}
	schema   []byte
	// Path below the root chart's folder, with the chart's name in front, to text.
	templates map[string]string
	children  []*chart
}

type list []string

func (it *list) String() string        { return strings.Join(*it, ",") }
func (it *list) Set(text string) error { *it = append(*it, text); return nil }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// Helm's releases differ in whether numbers are floats or keep their digits. What a chart makes of them must not.
func read(text []byte, into interface{}, digits bool) error {
	return yaml.Unmarshal(text, into, func(decoder *json.Decoder) *json.Decoder {
		if digits {
			decoder.UseNumber()
		}
		return decoder
	})
}

func load(folder, prefix string, digits bool) *chart {
	it := &chart{values: map[string]interface{}{}, templates: map[string]string{}}
	text, err := os.ReadFile(filepath.Join(folder, "Chart.yaml"))
	must(err)
	must(yaml.UnmarshalStrict(text, &it.metadata))
	prefix += it.metadata.Name
	text, err = os.ReadFile(filepath.Join(folder, "values.yaml"))
	must(err)
	must(read(text, &it.values, digits))
	it.schema, _ = os.ReadFile(filepath.Join(folder, "values.schema.json"))
	names, err := filepath.Glob(filepath.Join(folder, "templates", "*"))
	must(err)
	for _, name := range names {
		text, err := os.ReadFile(name)
		must(err)
		it.templates[prefix+"/templates/"+filepath.Base(name)] = string(text)
	}
	for _, dependency := range it.metadata.Dependencies {
		// What `helm dependency build` puts into `charts`.
		local := strings.TrimPrefix(dependency.Repository, "file://")
		it.children = append(it.children, load(filepath.Join(folder, local), prefix+"/charts/", digits))
	}
	return it
}

// What is said goes before what is the default, and `null` takes a default away.
func over(said, defaults map[string]interface{}) map[string]interface{} {
	merged := merge(said, defaults)
	for name, value := range merged {
		if value == nil {
			delete(merged, name)
		} else if inner, isMap := value.(map[string]interface{}); isMap {
			merged[name] = over(inner, nil)
		}
	}
	return merged
}

// Of several files with values each goes before those before it; a `null` stays, for what it takes away may be a default.
func merge(said, before map[string]interface{}) map[string]interface{} {
	merged := map[string]interface{}{}
	for name, value := range before {
		merged[name] = value
	}
	for name, value := range said {
		inner, isMap := value.(map[string]interface{})
		below, hasMap := merged[name].(map[string]interface{})
		if isMap && hasMap {
			merged[name] = merge(inner, below)
		} else {
			merged[name] = value
		}
	}
	return merged
}

// The values of a chart and, under their names, of those that it depends on.
func (it *chart) coalesce(said map[string]interface{}) map[string]interface{} {
	merged := over(said, it.values)
	for _, child := range it.children {
		own, _ := merged[child.metadata.Name].(map[string]interface{})
		globals, _ := merged["global"].(map[string]interface{})
		ownGlobals, _ := own["global"].(map[string]interface{})
		own = over(map[string]interface{}{"global": over(globals, ownGlobals)}, own)
		merged[child.metadata.Name] = child.coalesce(own)
	}
	return merged
}

func (it *chart) validate(said map[string]interface{}) {
	if it.schema != nil {
		text, err := json.Marshal(said)
		must(err)
		result, err := gojsonschema.Validate(gojsonschema.NewBytesLoader(it.schema), gojsonschema.NewBytesLoader(text))
		must(err)
		for _, problem := range result.Errors() {
			fmt.Fprintf(os.Stderr, "%s: - %s\n", it.metadata.Name, problem)
		}
		if !result.Valid() {
			must(fmt.Errorf("values don't meet the specifications of the schema(s) in %s", it.metadata.Name))
		}
	}
	for _, child := range it.children {
		child.validate(said[child.metadata.Name].(map[string]interface{}))
	}
}

type kubeVersion struct{ Version, GitVersion, Major, Minor string }

func (it kubeVersion) String() string { return it.Version }

type capabilities struct{ KubeVersion kubeVersion }

// Every template with what its dot is, those of dependencies too.
func (it *chart) dots(said values, shared map[string]interface{}, found map[string]map[string]interface{}) map[string]interface{} {
	subcharts := map[string]interface{}{}
	dot := map[string]interface{}{"Chart": it.metadata, "Values": said, "Subcharts": subcharts}
	for name, value := range shared {
		dot[name] = value
	}
	for _, child := range it.children {
		own, _ := said[child.metadata.Name].(map[string]interface{})
		subcharts[child.metadata.Name] = child.dots(own, shared, found)
	}
	for name := range it.templates {
		found[name] = dot
	}
	return dot
}

func (it *chart) texts(found map[string]string) {
	for name, text := range it.templates {
		found[name] = text
	}
	for _, child := range it.children {
		child.texts(found)
	}
}

func functions(root *template.Template) template.FuncMap {
	all := sprig.TxtFuncMap()
	delete(all, "env")
	delete(all, "expandenv")
	delete(all, "getHostByName")
	depth := map[string]int{}
	all["include"] = func(name string, dot interface{}) (string, error) {
		if depth[name]++; depth[name] > 1000 {
			return "", fmt.Errorf("rendering template has a nested reference name: %s", name)
		}
		defer func() { depth[name]-- }()
		var out strings.Builder
		err := root.ExecuteTemplate(&out, name, dot)
		return out.String(), err
	}
	all["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return value, fmt.Errorf("%s", message)
		}
		return value, nil
	}
	all["fail"] = func(message string) (string, error) { return "", fmt.Errorf("%s", message) }
	all["toYaml"] = func(value interface{}) string {
		text, err := yaml.Marshal(value)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(string(text), "\n")
	}
	all["toJson"] = func(value interface{}) string {
		text, err := json.Marshal(value)
		if err != nil {
			return ""
		}
		return string(text)
	}
	return all
}

func render(folder string, files []string, release map[string]interface{}, kube string, digits bool) map[string]string {
	root := load(folder, "", digits)
	said := map[string]interface{}{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(err)
		one := map[string]interface{}{}
		must(read(text, &one, digits))
		said = merge(one, said)
	}
	version, err := semver.NewVersion(kube)
	must(err)
	if root.metadata.KubeVersion != "" {
		constraint, err := semver.NewConstraint(root.metadata.KubeVersion)
		must(err)
		if !constraint.Check(version) {
			must(fmt.Errorf("chart requires kubeVersion: %s which is incompatible with Kubernetes v%s", root.metadata.KubeVersion, kube))
		}
	}
	all := root.coalesce(said)
	root.validate(all)
	dots, texts := map[string]map[string]interface{}{}, map[string]string{}
	shown := kubeVersion{"v" + kube, "v" + kube, fmt.Sprint(version.Major()), fmt.Sprint(version.Minor())}
	root.dots(all, map[string]interface{}{"Release": release, "Capabilities": capabilities{shown}}, dots)
	root.texts(texts)

	names := []string{}
	for name := range texts {
		names = append(names, name)
	}
	// The deepest first, so that a chart's own definitions go before those of what it depends on.
	sort.Slice(names, func(a, b int) bool {
		deep, deeper := strings.Count(names[a], "/"), strings.Count(names[b], "/")
		return deep > deeper || deep == deeper && names[a] > names[b]
	})
	engine := template.New("gotpl").Option("missingkey=zero")
	engine.Funcs(functions(engine))
	for _, name := range names {
		_, err := engine.New(name).Parse(texts[name])
		must(err)
	}
	rendered := map[string]string{}
	for _, name := range names {
		if strings.HasPrefix(filepath.Base(name), "_") {
			continue
		}
		dot := map[string]interface{}{"Template": map[string]interface{}{"Name": name, "BasePath": filepath.Dir(name)}}
		for key, value := range dots[name] {
			dot[key] = value
		}
		var out bytes.Buffer
		must(engine.ExecuteTemplate(&out, name, dot))
		rendered[name] = strings.ReplaceAll(out.String(), "<no value>", "")
	}
	return rendered
}

func main() {
	var files list
	name := flag.String("release", "edge", "")
	namespace := flag.String("namespace", "edge", "")
	kube := flag.String("kube", "1.30.0", "")
	notes := flag.Bool("notes", false, "the notes and nothing else")
	flag.Var(&files, "f", "")
	flag.Parse()
	release := map[string]interface{}{
		"Name": *name, "Namespace": *namespace, "Service": "Helm", "Revision": 1, "IsInstall": true, "IsUpgrade": false,
	}
	rendered := render(flag.Arg(0), files, release, *kube, false)
	for name, text := range render(flag.Arg(0), files, release, *kube, true) {
		if rendered[name] != text {
			must(fmt.Errorf("%s depends on how numbers are read:\n%s\n%s", name, rendered[name], text))
		}
	}
	names := []string{}
	for name := range rendered {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if isNotes := strings.HasSuffix(name, "/NOTES.txt"); isNotes == *notes && strings.TrimSpace(rendered[name]) != "" {
			if !isNotes {
				fmt.Println("---\n# Source: " + name)
			}
			fmt.Println(strings.TrimSpace(rendered[name]))
		}
	}
}
