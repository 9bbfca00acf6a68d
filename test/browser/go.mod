module github.com/ocems-io/ocems/test/browser

go 1.26

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
	github.com/ocems-io/ocems v0.0.0
)

require (
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/klauspost/compress v1.18.5 // indirect
	go.yaml.in/yaml/v3 v3.0.4 // indirect
)

replace github.com/ocems-io/ocems => ../..
