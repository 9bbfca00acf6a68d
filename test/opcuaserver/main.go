// Command opcuaserver simulates an analyser with an OPC UA server for the test of the example. With each read of ns=1;s=cod the
// analyser's time advances by a minute. Every fifth value has a bad status, and every seventh an uncertain one. It prints each
// value that it serves: Unix milliseconds, value, status.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/server"
	"github.com/gopcua/opcua/ua"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:4840", "`address`")
	start := flag.Int64("start", 0, "`time` of the first value, in Unix seconds")
	count := flag.Int("count", 30, "number of values; after these the status is bad")
	flag.Parse()
	host, text, err := net.SplitHostPort(*listen)
	if err != nil {
		log.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	s := server.New(server.EnableSecurity("None", ua.MessageSecurityModeNone), server.EnableAuthMode(ua.UserTokenTypeAnonymous), server.EndPoint(host, port))
	root, err := s.Namespace(0)
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	plant := server.NewNodeNameSpace(s, "plant")
	root.Objects().AddRef(plant.Objects(), id.HasComponent, true)
	var mu sync.Mutex
	n := 0
	cod := plant.AddNewVariableStringNode("cod", func() *ua.DataValue {
		mu.Lock()
		defer mu.Unlock()
		at, value, status := time.Unix(*start, 0).Add(time.Duration(n)*time.Minute), 80+float64(n), ua.StatusOK
		switch {
		case n == 0: // Telegraf's first read only tests the connection
			status = ua.StatusBadWaitingForInitialData
		case n >= *count:
			status = ua.StatusBadNoCommunication
		case n%5 == 4:
			value, status = 999, ua.StatusBadSensorFailure
		case n%7 == 6:
			value, status = 888, ua.StatusUncertainSensorNotAccurate
		}
		if n++; n <= *count {
			fmt.Println(at.UnixMilli(), value, uint32(status))
		}
		return &ua.DataValue{EncodingMask: ua.DataValueValue | ua.DataValueStatusCode | ua.DataValueSourceTimestamp | ua.DataValueServerTimestamp,
			Value: ua.MustVariant(value), Status: status, SourceTimestamp: at, ServerTimestamp: at}
	})
	plant.Objects().AddRef(cod, id.HasComponent, true)
	select {}
}
