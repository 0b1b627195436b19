//! The places at which two JSON documents differ, as JSON Pointers (RFC 6901).

use serde::Serialize;
use serde_json::Value;

/// A value that differs between two documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JsonChange {
    /// Where, as a JSON Pointer (RFC 6901): `/services/0/command/1`; empty for the whole document.
    pub pointer: String,
    /// What the first document has there; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<Value>,
    /// What the second document has there; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<Value>,
}

/// Every place at which `a` and `b` differ, the deepest that says it.
pub(crate) fn json_changes(a: &Value, b: &Value) -> Vec<JsonChange> {
    let mut changes = Vec::new();
    descend(String::new(), Some(a), Some(b), &mut changes);
    changes
}

fn descend(pointer: String, a: Option<&Value>, b: Option<&Value>, changes: &mut Vec<JsonChange>) {
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let new = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(new) {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                descend(format!("{pointer}/{escaped}"), a.get(key), b.get(key), changes);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                descend(format!("{pointer}/{index}"), a.get(index), b.get(index), changes);
            }
        }
        _ if a == b => {}
        _ => changes.push(JsonChange { pointer, a: a.cloned(), b: b.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_the_deepest_place_and_tells_null_from_nothing() {
        let a = json!({"same": [1, 2], "list": [1, {"x/y": 1}], "gone": null, "type": {}});
        let b = json!({"same": [1, 2], "list": [1, {"x/y": 2}, 3], "new~": 0, "type": []});
        let change = |pointer: &str, a: Option<Value>, b: Option<Value>| JsonChange {
            pointer: pointer.to_owned(),
            a,
            b,
        };
        let mut found = json_changes(&a, &b);
        found.sort_by(|x, y| x.pointer.cmp(&y.pointer));
        let expected = [
            change("/gone", Some(Value::Null), None),
            change("/list/1/x~1y", Some(json!(1)), Some(json!(2))),
            change("/list/2", None, Some(json!(3))),
            change("/new~0", None, Some(json!(0))),
            change("/type", Some(json!({})), Some(json!([]))),
        ];
        assert_eq!(found, expected);
        assert_eq!(json_changes(&a, &a), []);
    }
}
