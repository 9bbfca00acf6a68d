package spec

import (
	"fmt"
	"strconv"
)

// Status is the `status` in the body of an answer (spec 2.5, 3.3). The body decides, not the HTTP status: the server also
// answers 200 when it refuses a request.
type Status int

// The status codes of annexe 3.3.
const (
	StatusSuccess              Status = 1
	StatusFailed               Status = 0
	StatusInvalidDetails       Status = 10
	StatusInvalidStation       Status = 102
	StatusNotEncrypted         Status = 109
	StatusInvalidUnit          Status = 110
	StatusNotSlot              Status = 111
	StatusNoCalibration        Status = 112
	StatusNoSignature          Status = 113
	StatusNoDeviceID           Status = 114
	StatusNoPublicKey          Status = 115
	StatusDeviceNotRegistered  Status = 116
	StatusTooOld               Status = 117
	StatusFuture               Status = 118
	StatusInvalidParameter     Status = 119
	StatusSeveralStations      Status = 120
	StatusNoStationDeviceMatch Status = 121
)

// messages are the `msg` texts of spec 2.5.1 and 2.5.2, exactly as printed. The spec has none for 0.
var messages = map[Status]string{
	StatusSuccess:              "success",
	StatusFailed:               "Request failed",
	StatusInvalidDetails:       "failed",
	StatusInvalidStation:       "Invalid_Station",
	StatusNotEncrypted:         "Payload not encrypted properly",
	StatusInvalidUnit:          "Invalid unit",
	StatusNotSlot:              "Uploaded data is not matching with defined 15 min timeframe",
	StatusNoCalibration:        "No calibration scheduled for this timestamp please contact cpcb",
	StatusNoSignature:          "signature key is missing in headers",
	StatusNoDeviceID:           "X-Device-Id key is missing in headers",
	StatusNoPublicKey:          "Public_Key is missing Generate the Key",
	StatusDeviceNotRegistered:  "Device is not registered, Please register for the Industry ",
	StatusTooOld:               "Data cannot be pushed beyond 7 days",
	StatusFuture:               "Data cannot be pushed for future time",
	StatusInvalidParameter:     "Invalid Parameter",
	StatusSeveralStations:      "Multiple Station Found in the Payload",
	StatusNoStationDeviceMatch: "The Station and Device Mapping not Found in the Payload",
}

// Message returns the `msg` that the server sends with the status (spec 2.5), or "" for a status outside v1.5.
func (s Status) Message() string { return messages[s] }

// Description returns the meaning of the status in annexe 3.3, or "" for a status outside v1.5.
func (s Status) Description() string { return statusCodes[s] }

// Known reports whether v1.5 of the API defines the status.
func (s Status) Known() bool { _, ok := statusCodes[s]; return ok }

func (s Status) String() string {
	if d, ok := statusCodes[s]; ok {
		return fmt.Sprintf("%d (%s)", int(s), d)
	}
	return fmt.Sprintf("%d (not a status of API v1.5)", int(s))
}

// Statuses returns the 17 codes of annexe 3.3.
func Statuses() []Status {
	var out []Status
	for _, row := range readRows("status_codes.csv", statusCodesCSV) {
		code, _ := strconv.Atoi(row[0])
		out = append(out, Status(code))
	}
	return out
}

func readStatusCodes() map[Status]string {
	m := map[Status]string{}
	for _, row := range readRows("status_codes.csv", statusCodesCSV) {
		code, err := strconv.Atoi(row[0])
		if err != nil {
			panic("ocems/spec: embedded status_codes.csv: " + err.Error())
		}
		m[Status(code)] = row[1]
	}
	return m
}
