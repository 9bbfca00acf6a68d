// Package kafka runs both hosts of examples/kafka against a broker in process, and kills the worker: make test-kafka.
package kafka
