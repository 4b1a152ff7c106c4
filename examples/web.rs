//! The web process of `Procfile.example`: answers every request on `PORT` with
//! its own name, and stops when it is told to.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "5000".into());
    let name = std::env::var("PS").unwrap_or_else(|_| "web".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("listening on http://localhost:{port}");
    for stream in listener.incoming() {
        match answer(&stream?, &name) {
            Ok(request) => println!("{request}"),
            Err(error) => eprintln!("failed to answer: {error}"),
        }
    }
    Ok(())
}

/// Answers one request, and returns its first line.
fn answer(mut stream: &TcpStream, name: &str) -> std::io::Result<String> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    let body = format!("hello from {name}\n");
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())?;
    Ok(request)
}
