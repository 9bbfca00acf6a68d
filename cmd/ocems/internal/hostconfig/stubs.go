package hostconfig

import (
	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/plugins/aggregators"
	"github.com/influxdata/telegraf/plugins/inputs"
	"github.com/influxdata/telegraf/plugins/outputs"
	"github.com/influxdata/telegraf/plugins/processors"
	"github.com/influxdata/telegraf/plugins/secretstores"
)

// register puts a stub into Telegraf's list where the plugin is not compiled in. Telegraf reads what it keeps for every
// plugin, such as namepass and flush_interval; the stub takes the plugin's own keys, whatever they are.
func register(kind, name string) {
	switch kind {
	case "inputs", "plugins":
		if inputs.Inputs[name] == nil {
			inputs.Add(name, func() telegraf.Input { return &inputStub{} })
		}
	case "outputs":
		if name == "execd" {
			outputs.Add(name, func() telegraf.Output { return &execdStub{} })
		} else if outputs.Outputs[name] == nil {
			outputs.Add(name, func() telegraf.Output { return &outputStub{} })
		}
	case "processors":
		if processors.Processors[name] == nil {
			processors.AddStreaming(name, func() telegraf.StreamingProcessor { return &processorStub{} })
		}
	case "aggregators":
		if aggregators.Aggregators[name] == nil {
			aggregators.Add(name, func() telegraf.Aggregator { return &aggregatorStub{} })
		}
	case "secretstores":
		if secretstores.SecretStores[name] == nil {
			secretstores.Add(name, func(string) telegraf.SecretStore { return &storeStub{} })
		}
	}
}

// stub is what the plugins have in common.
type stub struct{}

func (*stub) SampleConfig() string { return "" }

// UnmarshalTOML takes every key.
func (*stub) UnmarshalTOML(func(any) error) error { return nil }

type inputStub struct{ stub }

func (*inputStub) Gather(telegraf.Accumulator) error { return nil }

type outputStub struct{ stub }

func (*outputStub) Connect() error                { return nil }
func (*outputStub) Close() error                  { return nil }
func (*outputStub) Write([]telegraf.Metric) error { return nil }

type processorStub struct{ stub }

func (*processorStub) Start(telegraf.Accumulator) error                { return nil }
func (*processorStub) Add(telegraf.Metric, telegraf.Accumulator) error { return nil }
func (*processorStub) Stop()                                           {}

type aggregatorStub struct{ stub }

func (*aggregatorStub) Add(telegraf.Metric)       {}
func (*aggregatorStub) Push(telegraf.Accumulator) {}
func (*aggregatorStub) Reset()                    {}

type storeStub struct{ stub }

func (*storeStub) Init() error                                      { return nil }
func (*storeStub) Get(string) ([]byte, error)                       { return nil, nil }
func (*storeStub) Set(string, string) error                         { return nil }
func (*storeStub) List() ([]string, error)                          { return nil, nil }
func (*storeStub) GetResolver(string) (telegraf.ResolveFunc, error) { return nil, nil }

// execdStub has those keys of outputs.execd that matter to an ocems-telegraf behind it.
type execdStub struct {
	Command        []string        `toml:"command"`
	DataFormat     string          `toml:"data_format"`
	UseBatchFormat bool            `toml:"use_batch_format"`
	RestartDelay   config.Duration `toml:"restart_delay"`
}

func (*execdStub) SampleConfig() string          { return "" }
func (*execdStub) Connect() error                { return nil }
func (*execdStub) Close() error                  { return nil }
func (*execdStub) Write([]telegraf.Metric) error { return nil }
