//! Answers that are written without the router: to bytes that are no request, and to connections
//! that are one too many.
//!
//! | Status | When | `code` |
//! | --- | --- | --- |
//! | 400 | the bytes are no request of HTTP/1 | none |
//! | 408 | a request's head does not come to an end | none |
//! | 414 | the address is too long | `uri_too_long` |
//! | 431 | the headers are too many or too long | `headers_too_large` |
//! | 503 | the server has no room for one more connection | `overloaded` |
//!
//! Each of them carries an error object and ends its connection.

use axum::http::StatusCode;

use super::super::error::ApiError;

/// A whole answer that ends the connection.
pub(super) fn answer(error: &ApiError) -> Vec<u8> {
    let (status, body) = (error.status(), error.body().to_json());
    let mut answer = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in &error.headers() {
        answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let end = format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [answer, end.into_bytes(), body].concat()
}

/// The whole answer to which a refusal without a body belongs; `None` when the bytes are none.
///
/// Every answer of the router has a request's id, and every refusal without a body has none.
pub(super) fn with_body(bytes: &[u8]) -> Option<Vec<u8>> {
    let head = str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let (version, rest) = head.split_once(' ')?;
    let (status, _) = rest.split_once(' ')?;
    let is_refusal = version.starts_with("HTTP/1.")
        && head.contains("\r\ncontent-length: 0")
        && !head.contains("\r\nx-request-id:")
        && !head.contains("\r\n\r\n");
    let status = status.parse().ok().filter(|_| is_refusal)?;
    Some(answer(&match StatusCode::from_u16(status).ok()? {
        StatusCode::BAD_REQUEST => ApiError::NotHttp,
        StatusCode::URI_TOO_LONG => ApiError::UriTooLong,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ApiError::HeadersTooLarge,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_answer_with_an_error_object() {
        for error in [ApiError::TooManyConnections, ApiError::NotHttp, ApiError::HeadTimeout] {
            let text = String::from_utf8(answer(&error)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
            assert!(head.contains("connection: close"), "{head}");
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(json["error"]["message"], error.to_string());
        }
        let full = String::from_utf8(answer(&ApiError::TooManyConnections)).unwrap();
        assert!(full.starts_with("HTTP/1.1 503 ") && full.contains("\r\nretry-after: 1\r\n"));
    }

    #[test]
    fn only_a_refusal_without_a_body_gets_one() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\
                    date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";
        let told = String::from_utf8(with_body(bare.as_bytes()).unwrap()).unwrap();
        assert!(told.starts_with("HTTP/1.1 431 ") && told.contains("headers_too_large"), "{told}");
        for other in [
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nx-request-id: a\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n{}",
            "{\"error\": 5}",
            "",
        ] {
            assert_eq!(with_body(other.as_bytes()), None, "{other}");
        }
    }
}
