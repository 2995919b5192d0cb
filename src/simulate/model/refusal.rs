//! Strict reading of what a client sends: every member is known, of the right type and in range, or the whole event
//! is refused.

use serde_json::{Map, Value, json};

/// Why an event is refused, in the words of an `error` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

impl Refusal {
    pub(super) fn new(code: &str, message: impl Into<String>, param: Option<&str>) -> Self {
        Self { code: code.into(), message: message.into(), param: param.map(Into::into) }
    }

    /// The `error` member of an error event.
    pub(super) fn to_json(&self, event_id: Option<&str>) -> Value {
        json!({
            "type": "invalid_request_error",
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": event_id,
        })
    }
}

/// A value and the path that leads to it.
#[derive(Debug, Clone)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

impl<'a> At<'a> {
    pub(super) fn new(value: &'a Value, path: &str) -> Self {
        Self { value, path: path.into() }
    }

    fn wrong(&self, expected: &str) -> Refusal {
        Refusal::new("invalid_type", format!("`{}` must be {expected}", self.path), Some(&self.path))
    }

    pub(super) fn invalid(&self, problem: &str) -> Refusal {
        Refusal::new("invalid_value", format!("`{}` {problem}", self.path), Some(&self.path))
    }

    pub(super) fn unknown(&self) -> Refusal {
        Refusal::new("unknown_parameter", format!("unknown parameter `{}`", self.path), Some(&self.path))
    }

    pub(super) fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// An object with no other members than `allowed`.
    pub(super) fn object(&self, allowed: &[&str]) -> Result<&'a Map<String, Value>, Refusal> {
        let map = self.value.as_object().ok_or_else(|| self.wrong("an object"))?;
        match map.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(name) => Err(self.inside(name, &Value::Null).unknown()),
            None => Ok(map),
        }
    }

    fn inside<'b>(&self, name: &str, value: &'b Value) -> At<'b> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { value, path }
    }

    /// A member of an object, if it is there.
    pub(super) fn member(&self, name: &str) -> Option<Self> {
        self.value.get(name).map(|value| self.inside(name, value))
    }

    /// A member that must be there.
    pub(super) fn required(&self, name: &str) -> Result<Self, Refusal> {
        self.member(name).ok_or_else(|| {
            let path = self.inside(name, &Value::Null).path;
            Refusal::new("missing_required_parameter", format!("`{path}` is required"), Some(&path))
        })
    }

    pub(super) fn text(&self) -> Result<&'a str, Refusal> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    pub(super) fn text_up_to(&self, longest: usize) -> Result<&'a str, Refusal> {
        let text = self.text()?;
        if text.chars().count() > longest {
            let message = format!("`{}` is longer than {longest} characters", self.path);
            return Err(Refusal::new("string_above_max_length", message, Some(&self.path)));
        }
        Ok(text)
    }

    pub(super) fn one_of(&self, allowed: &[&str]) -> Result<&'a str, Refusal> {
        let text = self.text()?;
        if allowed.contains(&text) {
            Ok(text)
        } else {
            Err(self.invalid(&format!("is `{text}`, must be one of {}", allowed.join(", "))))
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, Refusal> {
        self.value.as_bool().ok_or_else(|| self.wrong("a boolean"))
    }

    pub(super) fn number(&self, low: f64, high: f64) -> Result<f64, Refusal> {
        let number = self.value.as_f64().ok_or_else(|| self.wrong("a number"))?;
        if number < low {
            return Err(self.out_of_range("decimal_below_min_value", &low.to_string(), "at least"));
        }
        if number > high {
            return Err(self.out_of_range("decimal_above_max_value", &high.to_string(), "at most"));
        }
        Ok(number)
    }

    pub(super) fn integer(&self, low: i64, high: i64) -> Result<i64, Refusal> {
        let number = self.value.as_i64().ok_or_else(|| self.wrong("an integer"))?;
        if number < low {
            return Err(self.out_of_range("integer_below_min_value", &low.to_string(), "at least"));
        }
        if number > high {
            return Err(self.out_of_range("integer_above_max_value", &high.to_string(), "at most"));
        }
        Ok(number)
    }

    fn out_of_range(&self, code: &str, bound: &str, how: &str) -> Refusal {
        Refusal::new(code, format!("`{}` must be {how} {bound}", self.path), Some(&self.path))
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Result<Vec<Self>, Refusal> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let element = |(index, value)| At { value, path: format!("{}[{index}]", self.path) };
        Ok(list.iter().enumerate().map(element).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_member_at_fault() {
        let value = json!({"a": {"b": [1, "x"], "c": 900}});
        let root = At::new(&value, "session");
        let a = root.required("a").unwrap();
        let code = |refusal: Refusal| (refusal.code, refusal.param.unwrap());
        assert_eq!(code(a.object(&["b"]).unwrap_err()), ("unknown_parameter".into(), "session.a.c".into()));
        assert_eq!(
            code(a.required("d").unwrap_err()),
            ("missing_required_parameter".into(), "session.a.d".into())
        );
        let list = a.member("b").unwrap().list().unwrap();
        assert_eq!(code(list[0].text().unwrap_err()), ("invalid_type".into(), "session.a.b[0]".into()));
        assert_eq!(code(list[1].one_of(&["y"]).unwrap_err()).0, "invalid_value");
        let c = a.member("c").unwrap();
        assert_eq!(code(c.integer(0, 100).unwrap_err()).0, "integer_above_max_value");
        assert_eq!(code(c.integer(1000, 2000).unwrap_err()).0, "integer_below_min_value");
    }
}
