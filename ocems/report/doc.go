// Package report reads audit trails and gives the outcome of each 15-minute slot of each device and parameter. A slot that no
// line names is missing. A [Host] adds the configured parameters and waiting slots; an [Export] adds the board's page. A trail is
// checked first; lines after an altered or cut place are read too, and marked as not verified. Of a closed file it reads only
// the summary lines, unless it must verify every line.
//
// It keeps one byte for each slot and parameter, shared by equal days, and keeps readings only if they are shown, so that
// months of trail need little memory.
package report
