package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	examples = "../../examples/kafka/"
	topic    = "ocems-readings"
	quarter  = 15 * time.Minute
	step     = 5 * time.Second  // between two readings of a device
	part     = 75 * time.Second // time span of the readings in one request
	devices  = 4
)

// reading is one reading of a device.
type reading struct {
	device string
	at     time.Time
	cod    float64
}

// host is one of the two hosts, with its gateway and its worker.
type host struct {
	name, variable          string
	gatewayFile, workerFile string // configurations
	listens                 string // address in the gateway's configuration
	post                    func(t *testing.T, address string, readings []reading)
	messages                int64    // messages of one device in a request
	short                   []string // texts in the worker's configuration and what stands for them, for short waits
	output, end             string   // the text in the worker's configuration that end follows
}

func hosts() []host {
	return []host{
		{"telegraf", "OCEMS_TELEGRAF", "gateway.conf", "worker.conf", "127.0.0.1:8186", lines, int64(part / step),
			[]string{`grace = "2m"`, `grace = "4s"`, `settle = "2m"`, `settle = "16s"`}, "[[outputs.ocems]]", "\n  spread = \"0s\"\n  endpoint = \"%s\""},
		{"collector", "OCEMS_COLLECTOR", "gateway.yaml", "worker.yaml", "127.0.0.1:4318", otlp, 1,
			[]string{"grace: 2m", "grace: 4s", "settle: 2m", "settle: 16s"}, "storage: ocems_storage", "\n    spread: 0s\n    endpoint: %s"},
	}
}

func send(t *testing.T, url, kind string, body []byte) {
	t.Helper()
	resp, err := http.Post(url, kind, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s: %s", url, resp.Status)
	}
}

func lines(t *testing.T, address string, readings []reading) {
	var b bytes.Buffer
	for _, r := range readings {
		fmt.Fprintf(&b, "plant,ocems_device_id=%s,ocems_unit=mg/L cod=%v %d\n", r.device, r.cod, r.at.UnixNano())
	}
	send(t, "http://"+address+"/write", "text/plain", b.Bytes())
}

// otlp posts readings with a sender's resource attributes, one of which changes.
func otlp(t *testing.T, address string, readings []reading) {
	metrics := pmetric.NewMetrics()
	points := map[string]pmetric.NumberDataPointSlice{}
	for _, r := range readings {
		list, seen := points[r.device]
		if !seen {
			resource := metrics.ResourceMetrics().AppendEmpty()
			resource.Resource().Attributes().PutStr("ocems.device.id", r.device)
			resource.Resource().Attributes().PutStr("ocems.unit", "mg/L")
			resource.Resource().Attributes().PutStr("service.instance.id", r.at.String())
			m := resource.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
			m.SetName("cod")
			list = m.SetEmptyGauge().DataPoints()
			points[r.device] = list
		}
		p := list.AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(r.at))
		p.SetDoubleValue(r.cod)
	}
	body, err := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	send(t, "http://"+address+"/v1/metrics", "application/x-protobuf", body)
}

// broker is a Kafka broker inside this process.
type broker struct {
	t       *testing.T
	address string
	client  *kadm.Client

	mu   sync.Mutex
	deaf bool            // it confirms commits of offsets and forgets them, as if the worker had been killed before the commit
	lost map[int32]int64 // forgotten offsets by partition
}

func newBroker(t *testing.T) *broker {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	b := &broker{t: t, address: cluster.ListenAddrs()[0], client: kadm.NewClient(client)}
	cluster.ControlKey(kmsg.OffsetCommit.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return b.forget(r.(*kmsg.OffsetCommitRequest))
	})
	return b
}

func (b *broker) forget(r *kmsg.OffsetCommitRequest) (kmsg.Response, error, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.deaf {
		return nil, nil, false
	}
	answer := r.ResponseKind().(*kmsg.OffsetCommitResponse)
	for _, of := range r.Topics {
		t := kmsg.OffsetCommitResponseTopic{Topic: of.Topic, TopicID: of.TopicID}
		for _, p := range of.Partitions {
			b.lost[p.Partition] = p.Offset
			t.Partitions = append(t.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition})
		}
		answer.Topics = append(answer.Topics, t)
	}
	return answer, nil, true
}

// With hear(false) the broker forgets commits.
func (b *broker) hear(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deaf, b.lost = !ok, map[int32]int64{}
}

// held returns the number of messages in the topic.
func (b *broker) held() (n int64) {
	offsets, err := b.client.ListEndOffsets(context.Background(), topic)
	if err != nil {
		b.t.Fatal(err)
	}
	offsets.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// marked returns how many messages the worker has committed. taken includes commits that the broker has forgotten.
func (b *broker) marked() (marked, taken int64) {
	offsets, err := b.client.FetchOffsets(context.Background(), "ocems-1")
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // the worker has not joined yet
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	offsets.Each(func(o kadm.OffsetResponse) {
		marked += max(o.At, 0)
		taken += max(o.At, b.lost[o.Partition])
	})
	return marked, taken
}

// partitions returns the partitions in which each key occurs.
func (b *broker) partitions() map[string]map[int32]bool {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	found := map[string]map[int32]bool{}
	for n, all := int64(0), b.held(); n < all; {
		fetches := client.PollFetches(context.Background())
		if err := fetches.Err(); err != nil {
			b.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			if found[string(r.Key)] == nil {
				found[string(r.Key)] = map[int32]bool{}
			}
			found[string(r.Key)][r.Partition] = true
		})
	}
	return found
}

// plant is a gateway and a worker with their broker and board.
type plant struct {
	*host
	t               *testing.T
	kafka           *broker
	server          *board.Board
	dir, gateway    string
	program, config string // of the worker
	posted          int64  // messages
}

func newPlant(t *testing.T, h host) *plant {
	p := &plant{host: &h, t: t, kafka: newBroker(t), dir: t.TempDir(), gateway: loopback.Addr(t), program: board.Built(t, h.variable)}
	station := simulator.Station{ID: "station_1"}
	for i := range devices {
		station.Devices = append(station.Devices, simulator.Device{ID: fmt.Sprintf("dev_%d", i), Token: fmt.Sprintf("%032d", i+1)})
	}
	p.server = board.New(t, station)
	list := "station_id,device_id,token_id,public_key_file\n"
	for _, d := range station.Devices {
		list += fmt.Sprintf("station_1,%s,%s,%s\n", d.ID, d.Token, p.server.PublicKey)
	}
	board.Write(t, filepath.Join(p.dir, "devices.csv"), list)
	board.Start(t, p.dir, nil, p.program, "--config", board.Config(t, examples+h.gatewayFile, p.dir, h.listens, p.gateway, "127.0.0.1:9092", p.kafka.address))
	board.Listens(t, p.gateway)
	p.config = board.Config(t, examples+h.workerFile, p.dir, append(h.short, "127.0.0.1:9092", p.kafka.address, "/var/lib/ocems", p.dir, "/etc/ocems/devices.csv",
		filepath.Join(p.dir, "devices.csv"), h.output, fmt.Sprintf(h.output+h.end, p.server.URL))...)
	return p
}

func (p *plant) worker() *board.Program {
	return board.Start(p.t, p.dir, nil, p.program, "--config", p.config)
}

// send posts readings to the gateway, which makes n messages of them.
func (p *plant) send(readings []reading, n int64) {
	p.post(p.t, p.gateway, readings)
	p.posted += n
}

// arrive posts a newer reading again and again until the board has n slots, because with wait_for_newer a window settles only
// while readings come.
func (p *plant) arrive(n int, newer time.Time) {
	for end := time.Now().Add(time.Minute); p.server.Received().Accepted < n && time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		p.send([]reading{{"dev_0", newer, 1}}, 1)
	}
	p.server.Arrive(n)
}

// While no message comes, for example because no broker can be reached, no slot closes. Otherwise it would lack readings.
func TestAPauseClosesNoIncompleteSlot(t *testing.T) {
	for _, h := range hosts() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, h)
			p.worker()
			first := time.Now().Truncate(quarter).Add(-3 * quarter)
			p.send([]reading{{"dev_0", first.Add(time.Minute), 10}}, 1)
			board.Until(t, "the worker has the first reading", func() bool { n, _ := p.kafka.marked(); return n == p.posted })
			time.Sleep(24 * time.Second) // longer than grace and settle
			p.send([]reading{{"dev_0", first.Add(2 * time.Minute), 20}}, 1)
			p.arrive(1, first.Add(quarter+time.Minute))
			if got := p.server.Received().Readings; len(got) != 1 || got[0].Value.String() != "15" {
				t.Errorf("the board has %v, want the mean of both readings", got)
			}
		})
	}
}

// If a worker is killed while it reads, no reading is lost and none counts twice.
func TestAKilledWorkerLosesNothing(t *testing.T) {
	for _, h := range hosts() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, h)
			kafka, server, worker := p.kafka, p.server, p.worker()

			first := time.Now().Truncate(quarter).Add(-3 * quarter)
			sums, counts, want := map[string]float64{}, map[string]float64{}, map[string]float64{}
			kills, marked := 0, int64(0)
			for n, from := 0, first; from.Before(first.Add(2 * quarter)); n, from = n+1, from.Add(part) {
				var readings []reading
				for at := from; at.Before(from.Add(part)); at = at.Add(step) {
					for i := range devices {
						r := reading{fmt.Sprintf("dev_%d", i), at, float64(100*i) + at.Sub(first).Seconds()/10}
						key := fmt.Sprintf("%s %d", r.device, at.Truncate(quarter).Add(quarter).UnixMilli())
						sums[key] += r.cod
						counts[key]++
						want[key] = sums[key] / counts[key]
						readings = append(readings, r)
					}
				}
				post := func() { p.send(readings, devices*h.messages) }
				post()
				if n%6 != 3 {
					continue
				}
				board.Until(t, "the worker has marked more", func() bool { n, _ := kafka.marked(); return n > marked })
				kafka.hear(kills%2 == 1)
				post() // again, as after a lost answer
				if kills%2 == 0 {
					board.Until(t, "the worker has taken all", func() bool { _, n := kafka.marked(); return n == p.posted })
					var taken int64
					if marked, taken = kafka.marked(); taken == marked {
						t.Error("no message must be read again, so the test checks nothing")
					}
				}
				worker.Kill()
				kills++
				kafka.hear(true)
				marked, _ = kafka.marked()
				if kills < 4 {
					worker = p.worker()
				}
			}
			board.Until(t, "Kafka has messages that the worker does not have", func() bool { return kafka.held() == p.posted && p.posted > marked })
			p.worker()
			p.arrive(len(want), first.Add(2*quarter+time.Minute))
			board.Until(t, "all offsets are marked", func() bool { n, _ := kafka.marked(); return n == p.posted })
			t.Logf("%d kills; %d messages, %d of them marked before the last start", kills, p.posted, marked)

			got := map[string]float64{}
			for _, r := range server.Received().Readings {
				key := fmt.Sprintf("%s %d", r.Device, r.Timestamp)
				if _, twice := got[key]; twice {
					t.Errorf("%s occurs twice", key)
				}
				got[key], _ = r.Value.Float64()
				if math.Abs(got[key]-want[key]) > 5e-7*want[key] {
					t.Errorf("%s is %v, want %v", key, got[key], want[key])
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d slots, want %d", len(got), len(want))
			}
			keys := kafka.partitions()
			if len(keys) != devices {
				t.Errorf("%d keys, want one for each of %d devices", len(keys), devices)
			}
			for key, where := range keys {
				if len(where) != 1 {
					t.Errorf("key %q is in the partitions %v", key, where)
				}
			}
		})
	}
}
