// Command browser opens the project's pages in a real Chromium: the console of `ocems simulate`, the page of `ocems serve`, and
// the report of `ocems report --format html`. Its tests check the pages. The command makes the pictures of the documentation
// from a demonstration week.
//
//	browser [-out FOLDER] [-chromium PROGRAM]
package main
