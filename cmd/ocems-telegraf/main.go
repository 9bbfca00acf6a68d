package main

import (
	_ "github.com/influxdata/telegraf/config"
	_ "github.com/influxdata/telegraf/logger"
	_ "github.com/influxdata/telegraf/plugins/parsers/influx"
	_ "github.com/influxdata/telegraf/plugins/parsers/influx/influx_upstream"
	_ "github.com/influxdata/toml"

	_ "github.com/ocems-io/ocems/plugins/outputs/ocems"
)

func main() {}
