// Package kafka runs both hosts of examples/kafka with a broker inside the test process, and kills the worker: make test-kafka.
package kafka
