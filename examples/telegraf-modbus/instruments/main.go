package main

import _ "github.com/simonvetter/modbus"

func main() {}
