/**
 * Puts the text of a field on the clipboard, and selects it for those whose browser does not let a page do so. On plain HTTP
 * there is no `navigator.clipboard`; the old command works there while the person has just clicked. Tells whether it worked.
 */
export async function copyField(field: HTMLInputElement | HTMLTextAreaElement): Promise<boolean> {
  field.focus();
  field.select();
  if (navigator.clipboard !== undefined) {
    try {
      await navigator.clipboard.writeText(field.value);
      return true;
    } catch {
      // Not allowed: the old command may be.
    }
  }
  return document.execCommand('copy');
}
