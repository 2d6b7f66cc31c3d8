#!/bin/sh
# Checks the documentation without network access: the targets of relative links and anchors exist, prose has at most 100
# columns, the README has 500 to 900 words, and the figures of the page on scale follow from its data. Needs git, perl and
# python3.
set -eu

cd "$(dirname "$0")/.."

benches/scale.py

git ls-files -z --cached --others --exclude-standard -- '*.md' | perl -CSD -Mutf8 -0ne '
    chomp;
    push @pages, $_ if -e;
    END {
        my (%anchors, @links, @problems);
        for my $page (@pages) {
            open my $file, "<", $page or die "$page: $!";
            local $/ = "\n";
            my ($fence, %seen) = ("");
            while (my $line = <$file>) {
                chomp $line;
                if ($line =~ /^\s*(```+)/) { $fence = $fence eq "" ? $1 : $1 eq $fence ? "" : $fence; next }
                next if $fence ne "";
                my $text = $line =~ s/`[^`]*`//gr;
                if ($line =~ /^#+ +(.*)/) {
                    # The anchor that GitHub gives a heading.
                    my $anchor = lc($1) =~ s/\[([^\]]*)\]\([^)]*\)/$1/gr =~ s/[^\w\- ]//gr =~ tr/ /-/r;
                    my $count = $seen{$anchor}++;
                    $anchors{$page}{$count ? "$anchor-$count" : $anchor} = 1;
                }
                $anchors{$page}{$1} = 1 while $line =~ /<a id="([^"]+)">/g;
                push @links, [$page, $., $1] while $text =~ /\]\(([^)\s]+)\)/g;
                # Tables cannot be wrapped. The target of a link and comments do not count.
                my $width = length($line =~ s/\]\([^)]*\)/]/gr =~ s/<!--.*?-->//gr);
                push @problems, "$page:$.: has $width columns; wrap it at 100"
                    if $width > 100 && $line !~ /^\s*\|/ && $page !~ m{^docs/spec/};
            }
        }
        for (@links) {
            my ($page, $line, $target) = @$_;
            next if $target =~ /^[a-z]+:/;
            my ($path, $anchor) = split /#/, $target, 2;
            my $file = $path eq "" ? $page : ($page =~ s{[^/]*$}{}r) . $path;
            1 while $file =~ s{(^|/)(?!\.\./)[^/]+/\.\./}{$1} || $file =~ s{(^|/)\./}{$1};
            if (!-e $file) { push @problems, "$page:$line: $target: the file does not exist" }
            elsif (defined $anchor && !$anchors{$file}{$anchor}) { push @problems, "$page:$line: $target: the heading does not exist" }
        }
        open my $readme, "<", "README.md" or die "README.md: $!";
        my $words = () = join("", <$readme>) =~ /\S+/g;
        push @problems, "README.md: has $words words; it should have 500 to 900" if $words < 500 || $words > 900;
        print STDERR "$_\n" for @problems;
        exit 1 if @problems;
    }'
