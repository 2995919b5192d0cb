//! What the page as a whole promises.

use super::figures::UNKNOWN;
use super::*;
use crate::bench::outcome::{AgainstFloor, Cpu};

#[test]
fn names_and_problems_are_text_and_never_markup() {
    let mut outcome = sample::outcome();
    let name = r#"<b>&""#;
    outcome.targets[0].name = name.to_owned();
    outcome.targets[0].url = "ws://x/?a=1&b=<i>".to_owned();
    for step in outcome.steps.iter_mut().filter(|step| step.target == "voicebridge") {
        step.target = name.to_owned();
    }
    outcome.steps[0].problems =
        vec!["</script><script>alert(1)</script>".to_owned(), "<!-- &amp;".to_owned()];
    outcome.command = "bench --name '</code><i>'".to_owned();
    outcome.machine.processor = "</dd>\"'".to_owned();

    let page = page(&outcome);
    assert_nested(&page);
    let seen = page.split("<script").next().unwrap();
    for raw in [name, "<i>", "alert(1)</script>", "<!--", "</dd>\"", "--name '"] {
        assert!(!seen.contains(raw), "{raw} stands in the page as it is");
    }
    assert_eq!(page.matches("</script>").count(), 2);
    for text in [
        "What &#60;b&#62;&#38;&#34; adds to a call",
        "&#60;/script&#62;&#60;script&#62;alert(1)",
        "&#60;!-- &#38;amp;",
        "ws://x/?a=1&#38;b=&#60;i&#62;",
    ] {
        assert!(page.contains(text), "{text} is missing");
    }
    assert_eq!(data(&page), outcome);
}

#[test]
fn the_data_in_the_page_is_the_outcome() {
    for outcome in sample::all_kinds() {
        let page = page(&outcome);
        assert_eq!(data(&page), outcome);
        // The page says to take the line after this one.
        assert_eq!(page.lines().filter(|line| line.contains(r#"id="outcome""#)).count(), 1);
        assert!(page.contains("<code>sed -n '/id=&quot;outcome&quot;/{n;p;}' report.html"));
        assert!(
            page.contains(r#"<button id="save" type="button" hidden>"#),
            "shown by the script that serves it"
        );
    }
}

#[test]
fn large_figures_are_medians_over_rounds_less_the_floors_and_the_table_keeps_each_round() {
    let mut outcome = sample::outcome();
    let p50 = [("voicebridge", 1, 311), ("voicebridge", 2, 413), ("floor", 1, 101), ("floor", 2, 203)];
    for (target, round, us) in p50 {
        let step = outcome
            .steps
            .iter_mut()
            .find(|step| step.target == target && step.round == round && step.calls == 300);
        let step = step.unwrap();
        step.up.latency.p50_us = us;
        step.cpu.as_mut().unwrap().ms_per_call_second = us as f64 / 100.0;
        step.memory.as_mut().unwrap().per_call_bytes = us as f64 * 1024.0;
        (step.up.lost, step.up.sent, step.down.lost, step.down.sent) = (2, 100, 3, 100);
    }
    let answers = answer::answers(&Run::new(&outcome));
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].heading, "voicebridge at 300\u{a0}calls");
    let figures = |title: &str| -> Vec<String> {
        let card = answers[0].cards.iter().find(|card| card.title.starts_with(title)).unwrap();
        card.figures.iter().map(|figure| format!("{} {}", figure.value, figure.words)).collect()
    };
    assert_eq!(figures("Added latency, caller to model")[0], "210\u{a0}µs p50");
    assert_eq!(figures("CPU"), ["3.62\u{a0}ms per call-second", "2.38× of floor"]);
    assert_eq!(figures("Memory"), ["362\u{a0}KiB per call", "86.0\u{a0}MiB in all"]);
    assert_eq!(figures("Frames lost"), ["10 of 400", "0 reordered", "12 late"]);

    let page = page(&outcome);
    assert!(page.contains("Medians over 2\u{a0}rounds"));
    assert!(page.contains("362\u{a0}µs less floor’s 152\u{a0}µs"));
    for (_, _, us) in p50 {
        assert!(page.contains(&format!("<td>{us}\u{a0}µs</td>")), "round with {us} µs");
    }
}

#[test]
fn a_search_is_summed_up_within_the_limit_and_says_how_many_calls_there_were() {
    let mut outcome = sample::outcome();
    for step in outcome.steps.iter_mut().filter(|step| step.target == "voicebridge" && step.calls == 300) {
        step.within_limit = false;
    }
    assert_eq!(Run::new(&outcome).compared_at(), Some(300), "a failure that was asked for is not hidden");
    assert!(page(&outcome).contains("Under this load it is beyond the limit."));

    outcome.most_calls = [("voicebridge".to_owned(), 240), ("floor".to_owned(), 1300)].into();
    outcome.most_tried = Some(2000);
    assert_eq!(Run::new(&outcome).compared_at(), Some(200));
    let page = page(&outcome);
    assert!(page.contains("<b>240</b> <small>at once, at most</small>"));
    outcome.most_tried = Some(240);
    assert!(super::page(&outcome).contains("<b>240</b> <small>at once, at least</small>"));
    assert!(page.contains("<b>1\u{202f}300</b> <small>floor</small>"));
}

#[test]
fn all_that_is_known_is_drawn_each_with_words_for_those_who_cannot_see_it() {
    let page = page(&sample::outcome());
    let plots: Vec<&str> =
        page.split(r#"<svg class="plot""#).skip(1).map(|rest| rest.split("</svg>").next().unwrap()).collect();
    assert_eq!(plots.len(), 8);
    for plot in &plots {
        assert!(plot.contains(r#"role="img""#) && plot.contains("<title") && plot.contains(r#"class="t0""#));
        assert!(plot.contains(r#"class="floor""#) && plot.contains(">voicebridge"));
        let words = plot.split("<desc").nth(1).unwrap().split("</desc>").next().unwrap();
        assert!(words.contains("voicebridge") && words.contains("floor"), "{words}");
    }
    let cpu = plots.iter().find(|plot| plot.contains(r#"id="cpu-title""#)).unwrap();
    assert!(cpu.contains(">1.50×</text>"), "the ratio to the floor at 300 calls");
    assert!(cpu.contains(r#"class="range""#), "how far the rounds lie apart");
    assert!(cpu.contains(">voicebridge own</text>") && !cpu.contains(">floor own</text>"));
    let tail = plots.iter().find(|plot| plot.contains(r#"id="up-title""#)).unwrap();
    assert!(tail.contains(">99.99</text>") && tail.contains("99.9 % within"));
}

#[test]
fn the_limit_is_drawn_where_it_is_near() {
    let mut outcome = sample::outcome();
    assert!(!page(&outcome).contains(r#"class="limit""#), "20 ms would press all lines to the bottom");
    outcome.load.limit.p99_ms = 1.0;
    let page = page(&outcome);
    assert_eq!(page.matches(r#"class="limit""#).count(), 2);
    assert!(page.contains(">limit for p99: 1 ms</text>"));
}

#[test]
fn the_page_says_how_it_was_measured() {
    let mut outcome = sample::outcome();
    let telephone = page(&outcome);
    for text in [
        "From the moment a frame of 20 ms was <em>sent</em>",
        "The far ends never wait for the target",
        "late by more than 20 ms (p99) does not count as within the limit",
        "coordinated omission",
        "arrival of its middle",
        "proportional set size",
        "what the run itself started, or of a process named with <code>--pid</code>",
        "open loop",
    ] {
        assert!(telephone.contains(text), "{text}");
    }
    assert!(!telephone.contains("due"), "the clock begins when a frame is sent");
    assert!(telephone.contains("Steps were repeated.") && telephone.contains("nothing has to be filtered"));
    outcome.load.format = AudioFormat::Pcm24k;
    outcome.steps.retain(|step| step.round == 1);
    let once = page(&outcome);
    assert!(once.contains("Each step was measured once") && once.contains("between 8 and 24 kHz"));
}

#[test]
fn one_step_without_floor_cpu_or_memory_still_reads_well() {
    let page = page(&sample::lone_step());
    assert_nested(&page);
    assert!(page.contains("voicebridge at 50\u{a0}calls") && page.contains("Latency, caller to model"));
    assert!(page.contains("There is no floor to compare with") && page.contains("One round."));
    for absent in [
        "Added latency,",
        "<h3>CPU</h3>",
        "<h3>Memory</h3>",
        "With more calls",
        "What it costs",
        "<h3>The floor",
        "Against the floor",
    ] {
        assert!(!page.contains(absent), "{absent}");
    }
    assert_eq!(page.matches(r#"<svg class="plot""#).count(), 4);
    assert!(page.contains(&format!("<td>{UNKNOWN}</td>")));
}

#[test]
fn nothing_measured_nothing_counted_and_no_numbers_give_a_page_without_empty_drawings() {
    for outcome in sample::all_kinds() {
        let page = page(&outcome);
        assert_nested(&page);
        for word in page.split(|letter: char| !letter.is_ascii_alphanumeric()) {
            assert!(!["NaN", "inf", "Infinity"].contains(&word), "{word} for {}", outcome.command);
        }
        for plot in page.split(r#"<svg class="plot""#).skip(1) {
            assert!(plot.contains(r#"class="line" d="M"#), "an empty drawing for {}", outcome.command);
        }
    }
    let nothing = page(&sample::all_kinds()[3]);
    let several = page(&sample::all_kinds()[5]);
    assert!(several.contains("<h1>What each of 8\u{a0}bridges adds to a call</h1>"));
    assert!(nothing.contains("<h1>Nothing was measured</h1>") && !nothing.contains("<table"));

    let mut unknown = sample::outcome();
    for step in &mut unknown.steps {
        step.cpu = Some(Cpu {
            ms_per_call_second: f64::NAN,
            own_ms_per_call_second: f64::INFINITY,
            machine_busy: 0.0,
        });
        step.up.shift_us = f64::NEG_INFINITY;
    }
    let page = page(&unknown);
    assert_nested(&page);
    assert!(!page.contains("NaN") && !page.contains(">inf") && !page.contains("<h3>CPU</h3>"));
}

#[test]
fn steps_beyond_the_limit_are_marked_and_problems_are_told() {
    let mut outcome = sample::outcome();
    assert!(!page(&outcome).contains(r#"<tbody class="beyond">"#));
    assert!(!page(&outcome).contains(r#"<aside class="notice""#));
    let last = outcome.steps.last_mut().unwrap();
    last.within_limit = false;
    last.problems = vec!["2 calls were refused".to_owned(), "1 stream broke".to_owned()];
    let page = page(&outcome);
    assert_eq!(page.matches(r#"<tbody class="beyond">"#).count(), 4, "once in each table of the floor");
    assert!(page.contains("2 calls were refused; 1 stream broke"));
    assert!(
        page.contains(
            "Beyond the limit (p99 below 20 ms, at most 0.1\u{a0}% lost), or with problems: floor at 300\u{a0}calls."
        )
    );
}

#[test]
fn late_far_ends_are_warned_of() {
    let mut outcome = sample::outcome();
    outcome.steps[0].far_ends.lateness.p99_us = 2000;
    assert!(!page(&outcome).contains("The far ends were late."));
    outcome.steps[0].far_ends.lateness.p99_us = 5210;
    let page = page(&outcome);
    assert!(page.contains("The far ends were late."));
    assert!(page.contains("In voicebridge at 50\u{a0}calls,") && page.contains("within 5.21\u{a0}ms"));
    assert!(!page.contains("With more than 20 ms"));
    outcome.steps[0].far_ends.lateness.p99_us = 20_001;
    assert!(
        super::page(&outcome).contains("With more than 20 ms, a step does not count as within the limit.")
    );
}

#[test]
fn a_run_that_was_stopped_says_so() {
    let mut outcome = sample::outcome();
    assert!(!page(&outcome).contains("Not complete."));
    outcome.stopped_early = true;
    assert!(page(&outcome).contains("It was stopped before all was measured"));
}

#[test]
fn the_delay_of_a_filter_stands_beside_the_latency_it_is_no_part_of() {
    let mut outcome = sample::outcome();
    for step in &mut outcome.steps {
        step.up.shift_us = if step.target == "voicebridge" { 1_490.0 } else { 0.0 };
        step.down.shift_us = 0.0;
    }
    let page = page(&outcome);
    assert_eq!(page.matches("later in its messages, as filters do").count(), 1, "only on the way up");
    assert!(page.contains("<b>1.49\u{a0}ms</b> <small>more</small>"));
}

#[test]
fn a_debug_build_is_warned_of() {
    let mut outcome = sample::outcome();
    assert!(!page(&outcome).contains("debug build"));
    outcome.machine.optimised = false;
    assert!(page(&outcome).contains("<strong>Measured with a debug build.</strong>"));
}

#[test]
fn each_step_of_a_bridge_stands_in_a_table_with_its_ratios_to_the_floor() {
    let mut outcome = sample::outcome();
    let step = outcome.steps.iter_mut().rfind(|step| step.target == "voicebridge").unwrap();
    step.against_floor = Some(AgainstFloor {
        cpu: Some(1.5),
        own_memory: Some(2.031),
        up_p50: Some(0.5),
        up_p99: Some(12.0),
        down_p50: Some(1.0),
        down_p99: Some(133.4),
        first_audio_p50: Some(f64::NAN),
        barge_in_p50: None,
    });
    let cells = "1.50× 2.03× 0.500× 12.0× 1.00× 133× – –";
    let tables = table::tables(&outcome);
    let against = tables.iter().find(|table| table.title == "Against the floor").unwrap();
    assert_eq!(against.steps.len(), 8, "the bridge's, not the floor's");
    assert!(against.steps.iter().all(|rows| rows.step.target == "voicebridge"));
    assert_eq!(against.steps[7].rows[0].cells, cells.split(' ').collect::<Vec<_>>());
    assert!(page(&outcome).contains("<td>2.03×</td>"));
}

#[test]
fn tables_have_a_cell_for_each_column_and_a_name_for_each_of_several_rows() {
    for outcome in sample::all_kinds() {
        for table in table::tables(&outcome) {
            for rows in table.steps {
                assert!(rows.rows.len() == 1 || table.names.is_some(), "{}", table.title);
                for row in rows.rows {
                    assert_eq!(row.cells.len(), table.columns.len(), "{}", table.title);
                    assert_eq!(row.name.is_empty(), table.names.is_none(), "{}", table.title);
                }
            }
        }
    }
}

#[test]
fn interruptions_are_counted_and_those_without_a_clear_are_told() {
    let mut outcome = sample::outcome();
    for step in outcome.steps.iter_mut().filter(|step| step.target == "voicebridge" && step.calls == 300) {
        (step.interruptions, step.not_cleared, step.calls_up, step.up.duplicated) = (4567, 23, 299, 7654);
        step.truncation = sample::latency(4321, 20_000.0, 60_000.0);
    }
    let page = page(&outcome);
    assert!(page.contains("<b>46</b> <small>not cleared</small>") && page.contains("of 9\u{202f}134"));
    for cells in [
        "<td>299</td><td>0</td><td>4\u{202f}567</td><td>23</td>",
        "<td>7\u{202f}654</td>",
        "cut, against what was heard</th><td>4\u{202f}321</td>",
    ] {
        assert_eq!(page.matches(cells).count(), 2, "{cells}");
    }
}

#[test]
fn the_page_needs_no_network() {
    for outcome in sample::all_kinds() {
        let page = page(&outcome);
        for reference in [
            "http://", "https://", " src=", " href=", "url(", "@import", "<link", "<img", "<iframe", "fetch(",
        ] {
            assert!(!page.contains(reference), "{reference}");
        }
        assert!(page.contains("default-src 'none'"));
    }
}

#[test]
fn light_dark_narrow_and_paper_are_thought_of() {
    let page = page(&sample::outcome());
    for text in [
        "prefers-color-scheme: dark",
        "@media print",
        "max-width: 600px",
        "tabular-nums",
        "width=device-width",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

/// What the page has for programs.
fn data(page: &str) -> Outcome {
    let begin = "<script type=\"application/json\" id=\"outcome\">";
    let json = page.split(begin).nth(1).unwrap().split("</script>").next().unwrap();
    assert!(!json.contains('<'));
    serde_json::from_str(json).unwrap()
}

/// Every element that begins also ends, in the right order.
fn assert_nested(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').unwrap();
        rest = after;
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "</{closed}> ends something else");
        } else if !(tag.ends_with('/') || ["meta", "!doctype"].contains(&name)) {
            open.push(name);
            // Text until their end, whatever it looks like.
            if ["script", "style"].contains(&name) {
                rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
            }
        }
    }
    assert!(open.is_empty(), "{open:?} never end");
}
