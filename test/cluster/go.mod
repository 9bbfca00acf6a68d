module github.com/ocems-io/ocems/test/cluster

go 1.26

require (
	github.com/nats-io/nats.go v1.50.0
	github.com/ocems-io/ocems v0.0.0
)

require (
	github.com/klauspost/compress v1.18.5 // indirect
	github.com/nats-io/nkeys v0.4.15 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	go.yaml.in/yaml/v3 v3.0.4 // indirect
	golang.org/x/crypto v0.50.0 // indirect
	golang.org/x/sys v0.43.0 // indirect
)

replace github.com/ocems-io/ocems => ../..
