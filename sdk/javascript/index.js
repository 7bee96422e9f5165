/** The input is wrong. The response is 422 with this message. */
export class InvalidInput extends Error {
  name = "InvalidInput";
}
