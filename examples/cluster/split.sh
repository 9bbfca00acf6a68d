#!/usr/bin/env bash
# split.sh PARTITIONS devices.csv: writes devices-0.csv, devices-1.csv, … to the same folder, with the devices of each
# partition. The hash is the one of the brokers' mapping: FNV-1a modulo the number of partitions. The first columns must be
# station_id,device_id.
set -euo pipefail
exec perl -e '
	my ($n, $path) = @ARGV;
	open(my $in, "<", $path) or die "split.sh: $path: $!\n";
	my $head = <$in>;
	$head =~ /^station_id,device_id,/ or die "split.sh: $path: the columns do not begin with station_id,device_id\n";
	(my $base = $path) =~ s/\.csv$//;
	my @out;
	for my $p (0 .. $n - 1) {
		my $file = "$base-$p.csv";
		my $old = umask 077;
		open($out[$p], ">", "$file.new") or die "split.sh: $file.new: $!\n";
		umask $old;
		print {$out[$p]} $head;
	}
	while (my $line = <$in>) {
		my $id = (split /,/, $line)[1];
		next unless defined $id;
		my $h = 2166136261;
		$h = (($h ^ ord $_) * 16777619) & 0xffffffff for split //, $id;
		print {$out[$h % $n]} $line;
	}
	for my $p (0 .. $n - 1) {
		close($out[$p]) && rename("$base-$p.csv.new", "$base-$p.csv") or die "split.sh: $base-$p.csv: $!\n";
	}
' "$1" "$2"
