//! How lines look, so that they are told apart with and without colours.

/// What tells a line from others: colour, dashes and the shape of its markers by target, thin and hollow if second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Nothing for the floor.
    pub(super) target: Option<usize>,
    /// The lesser of two lines of one target.
    pub(super) second: bool,
}

/// Shapes of markers; as many as the style has colours.
const SHAPES: [&str; 6] = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M0-5L4.8 3.4H-4.8z",
    "M0-5.4L5 0L0 5.4L-5 0z",
    "M0 5L-4.8-3.4H4.8z",
    "M-2.4-4.2H2.4L4.8 0L2.4 4.2H-2.4L-4.8 0z",
    "M-5 0L3.4-4.8V4.8z",
];
const FLOOR_SHAPE: &str = "M-3.7-3.7h7.4v7.4h-7.4z";

impl Look {
    pub(super) fn class(self) -> String {
        let target =
            self.target.map_or_else(|| "floor".to_owned(), |index| format!("t{}", index % SHAPES.len()));
        if self.second { format!("{target} second") } else { target }
    }

    pub(super) fn shape(self) -> &'static str {
        self.target.map_or(FLOOR_SHAPE, |index| SHAPES[index % SHAPES.len()])
    }

    /// A piece of the line, for a legend.
    pub(super) fn swatch(self) -> String {
        format!(
            r#"<svg class="swatch" viewBox="0 0 36 14" aria-hidden="true"><g class="{}"><path class="line" d="M0 7H36"/><path class="marker" transform="translate(18 7)" d="{}"/></g></svg>"#,
            self.class(),
            self.shape()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lines_are_told_apart_without_colour() {
        let style = include_str!("page.css");
        let looks = (0..SHAPES.len()).map(Some).chain([None]).map(|target| Look { target, second: false });
        let seen: BTreeSet<(String, String)> = looks
            .map(|look| {
                let rule = format!(".{} {{", look.class());
                let rule = style.lines().find(|line| line.starts_with(&rule)).unwrap();
                (look.shape().to_owned(), rule.split("--dash:").nth(1).unwrap().to_owned())
            })
            .collect();
        let unlike =
            |of: fn(&(String, String)) -> &String| seen.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!((unlike(|look| &look.0), unlike(|look| &look.1)), (7, 7));
        assert_ne!(
            Look { target: Some(0), second: true }.class(),
            Look { target: Some(0), second: false }.class()
        );
    }
}
