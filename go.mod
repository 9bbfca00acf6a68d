module github.com/ocems-io/ocems

go 1.25.0
