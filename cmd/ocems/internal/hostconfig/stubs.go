package hostconfig

import (
	"strings"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/aggregators"
	"github.com/influxdata/telegraf/plugins/inputs"
	"github.com/influxdata/telegraf/plugins/outputs"
	"github.com/influxdata/telegraf/plugins/processors"
	"github.com/influxdata/telegraf/plugins/secretstores"
)

// register adds a stub to Telegraf's list if the plugin is not compiled in. Telegraf reads the keys common to all plugins,
// such as namepass and flush_interval; the plugin's own keys are not known.
func register(plugin string) {
	kind, name, _ := strings.Cut(plugin, ".")
	switch {
	case (kind == "inputs" || kind == "plugins") && inputs.Inputs[name] == nil:
		inputs.Add(name, func() telegraf.Input { return &stub{} })
	case plugin == "outputs.execd":
		outputs.Add(name, func() telegraf.Output { return &execdStub{} })
	case kind == "outputs" && outputs.Outputs[name] == nil:
		outputs.Add(name, func() telegraf.Output { return &stub{} })
	case kind == "processors" && processors.Processors[name] == nil:
		processors.AddStreaming(name, func() telegraf.StreamingProcessor { return &processorStub{} })
	case kind == "aggregators" && aggregators.Aggregators[name] == nil:
		aggregators.Add(name, func() telegraf.Aggregator { return &stub{} })
	case kind == "secretstores" && secretstores.SecretStores[name] == nil:
		secretstores.Add(name, func(string) telegraf.SecretStore { return &stub{} })
	}
}

// anyKeys accepts any key.
type anyKeys struct{}

func (anyKeys) SampleConfig() string                { return "" }
func (anyKeys) UnmarshalTOML(func(any) error) error { return nil }

// stub is an input, an output, an aggregator and a secret store that do nothing.
type stub struct{ anyKeys }

func (*stub) Gather(telegraf.Accumulator) error                { return nil }
func (*stub) Connect() error                                   { return nil }
func (*stub) Close() error                                     { return nil }
func (*stub) Write([]telegraf.Metric) error                    { return nil }
func (*stub) Add(telegraf.Metric)                              {}
func (*stub) Push(telegraf.Accumulator)                        {}
func (*stub) Reset()                                           {}
func (*stub) Init() error                                      { return nil }
func (*stub) Get(string) ([]byte, error)                       { return nil, nil }
func (*stub) Set(string, string) error                         { return nil }
func (*stub) List() ([]string, error)                          { return nil, nil }
func (*stub) GetResolver(string) (telegraf.ResolveFunc, error) { return nil, nil }

type processorStub struct{ anyKeys }

func (*processorStub) Start(telegraf.Accumulator) error                { return nil }
func (*processorStub) Add(telegraf.Metric, telegraf.Accumulator) error { return nil }
func (*processorStub) Stop()                                           {}

// execdStub keeps the keys of outputs.execd that matter for ocems-telegraf.
type execdStub struct {
	stub
	Command        []string
	DataFormat     string
	UseBatchFormat bool
	RestartDelay   any
}

func (x *execdStub) UnmarshalTOML(read func(any) error) error {
	keys := map[string]any{}
	if err := read(&keys); err != nil {
		return err
	}
	command, _ := keys["command"].([]any)
	for _, word := range command {
		text, _ := word.(string)
		x.Command = append(x.Command, text)
	}
	x.DataFormat, _ = keys["data_format"].(string)
	x.UseBatchFormat, _ = keys["use_batch_format"].(bool)
	x.RestartDelay = keys["restart_delay"]
	return nil
}
