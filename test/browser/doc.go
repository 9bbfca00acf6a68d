// Command browser opens the project's pages, the console of `ocems simulate` and the report of `ocems report --format
// html`, in a real Chromium: its tests check what a page shows, and the command makes the pictures of the documentation
// from a demonstration week.
//
//	browser [-out FOLDER] [-chromium PROGRAM]
package main
