//! The Rust example of the README is the function below, and it runs.

use tikv_client::RawClient;

use crate::support::stock::{client, key};
use crate::support::{TestNode, in_time};

const README: &str = include_str!("../../../../README.md");
const THIS_FILE: &str = include_str!("readme.rs");

async fn example(addr: &str) -> Result<(), tikv_client::Error> {
    let client = RawClient::new(vec![addr]).await?;
    client.put("hello".to_owned(), "world".to_owned()).await?;
    let value = client.get("hello".to_owned()).await?;
    println!("{:?}", value.map(String::from_utf8));
    Ok(())
}

/// What a reader copies, with the node's address for the default one.
fn the_readmes_example() -> String {
    let (_, rest) = README.split_once("```rust\n").expect("an example in Rust");
    let (text, _) = rest.split_once("```").expect("its end");
    let mut text = text.to_owned();
    for (theirs, ours) in [
        (
            "use tikv_client::RawClient;\n\n#[tokio::main]\nasync fn main() ",
            "async fn example(addr: &str) ",
        ),
        ("\"127.0.0.1:20160\"", "addr"),
    ] {
        assert_eq!(text.matches(theirs).count(), 1, "{theirs} in\n{text}");
        text = text.replace(theirs, ours);
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_example_of_the_readme_works() {
    let text = the_readmes_example();
    assert!(
        THIS_FILE.contains(&format!("\n{text}\n")),
        "the function `example` is not what README.md says:\n{text}"
    );
    let mut node = TestNode::start().await;
    let addr = node.addr();
    in_time("the example", example(&addr))
        .await
        .expect("it runs to its end");
    let value = client(&addr).await.get(key("hello")).await;
    assert_eq!(value.expect("it is read"), Some(b"world".to_vec()));
    node.stop().await;
}
